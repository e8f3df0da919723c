"""The verbs that talk to a cluster's Jobs API: submit, status, logs, stop, list."""

from pathlib import Path
from typing import Annotated

import typer
import typer.main

from interlace.jobs.console import reported_errors

JobsAddress = Annotated[
    str | None, typer.Option("--address", help="Jobs API of the cluster (http://HOST:8265); by default this host's.")
]
JobId = Annotated[str, typer.Argument(help="Submission id, as `submit` and `list` print it.", show_default=False)]
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def add_to(app: typer.Typer) -> None:
    """Add the verbs to the command line."""

    @app.command(context_settings=PASSED_ON)
    def submit(  # noqa: PLR0913 - one parameter a flag
        context: typer.Context,
        verb: Annotated[
            str, typer.Argument(help="One of train, tune, prepare, index, evaluate, predict.", show_default=False)
        ],
        address: JobsAddress = None,
        job_id: Annotated[str | None, typer.Option("--id", help="Submission id; by default from the recipe.")] = None,
        detach: Annotated[bool, typer.Option("--detach", help="Return once the job is handed in.")] = False,
        max_upload_mb: Annotated[float, typer.Option(help="Largest upload, MiB before compression.", min=0)] = 100.0,
        target: Annotated[str, typer.Option(help="Place to render for: ray, kuberay, vm or slurm.")] = "ray",
        render: Annotated[Path | None, typer.Option(help="Write the place's files here instead of running.")] = None,
        image: Annotated[str, typer.Option(help="Image of the nodes, in rendered files.")] = "interlace:latest",
        queue: Annotated[str | None, typer.Option(help="Kueue's queue, in rendered files.")] = None,
    ) -> None:
        """Run a verb as a job of a cluster, with the verb's own arguments: `submit train RECIPE --set ...`."""
        with reported_errors():
            from interlace.cluster.errors import JobError
            from interlace.cluster.render import SHARED
            from interlace.jobs.submit import Rendering, Sending, order, write_manifests
            from interlace.jobs.submit import submit as run

            folder = Path.cwd()
            base = Path(SHARED) if target in ("kuberay", "vm") else folder
            wanted = order(typer.main.get_command(app), verb, context.args, folder, base)
            if render is not None:
                rendering = Rendering(target=target, out=render, image=image, queue=queue, max_upload_mb=max_upload_mb)
                write_manifests(wanted, folder, rendering)
                return
            if target != "ray":
                raise JobError(f"--target {target} writes files for that place: give --render FOLDER")
            sending = Sending(address=address, job_id=job_id, detach=detach, max_upload_mb=max_upload_mb)
            raise typer.Exit(run(wanted, folder, sending))

    @app.command()
    def status(job: JobId, address: JobsAddress = None) -> None:
        """Say how a job stands; exits with its exit code once it has ended."""
        with reported_errors():
            from interlace.jobs import remote

            raise typer.Exit(remote.status(job, address))

    @app.command()
    def logs(
        job: JobId,
        follow: Annotated[
            bool, typer.Option("--follow", "-f", help="Until the job ends; exits with its code.")
        ] = False,
        address: JobsAddress = None,
    ) -> None:
        """Print what a job has printed."""
        with reported_errors():
            from interlace.jobs import remote

            raise typer.Exit(remote.logs(job, address, follow=follow))

    @app.command()
    def stop(job: JobId, address: JobsAddress = None) -> None:
        """End a job after it has written a checkpoint; the same `submit` goes on."""
        with reported_errors():
            from interlace.jobs import remote

            raise typer.Exit(remote.stop(job, address))

    @app.command("list")
    def list_jobs(address: JobsAddress = None) -> None:
        """List the jobs of a cluster."""
        with reported_errors():
            from interlace.jobs import remote

            raise typer.Exit(remote.table(address))
