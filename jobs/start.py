"""Starting Ray while torch is imported: each takes seconds, and neither needs the other."""

import threading

from interlace.cluster.connect import connect


def connect_early(address: str | None = None) -> None:
    """Connect to Ray and import torch at the same time; later calls of `connect` find what is there.

    Raises:
        ConnectionError: there is no cluster at the address.
    """
    importing = threading.Thread(target=_import_torch, name="import-torch")
    importing.start()
    try:
        connect(address)
    finally:
        importing.join()


def _import_torch() -> None:
    import torch  # noqa: F401 - for whoever imports it next
