"""A run whose workers say nothing: the command says so, and what it may wait for."""

from interlace.cluster.usage import Usage
from interlace.jobs.progress import waits_for
from interlace.jobs.silence import SILENT_S, Silence


def test_silence_is_told_after_a_while_and_then_ever_more_seldom() -> None:
    now = [0.0]
    silence = Silence(clock=lambda: now[0])
    told = []
    for second in range(1000):
        now[0] = float(second)
        if silence.due() is not None:
            told.append(second)
    assert told == [SILENT_S * 2**n for n in range(5)]
    silence.heard()
    now[0] += SILENT_S - 1
    assert silence.due() is None
    now[0] += 1
    assert silence.due() == SILENT_S
    silence.pause()
    now[0] += 10 * SILENT_S
    assert silence.due() is None, "nothing is waited for"
    silence.heard()
    assert silence.due() is None


def test_what_a_silent_run_may_wait_for_depends_on_whether_it_had_workers() -> None:
    cluster = Usage(nodes=2, cpus=4, cpus_reserved=3, store_bytes=0, store_used_bytes=0, spilled_bytes=0)
    before, after = (waits_for(46.2, "4 CPUs for training", cluster, workers_came=came) for came in (False, True))
    for text in (before, after):
        assert "for 46 s: 4 CPUs for training; now 2 nodes with 4 CPUs, 3 of them reserved." in text
    assert before.startswith("no worker")
    assert "workers were lost" in after
