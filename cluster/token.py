"""The cluster's token, found where Ray itself looks for it. It is sent as a header and put nowhere else."""

from collections.abc import Mapping
from pathlib import Path

PLACES = "RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token"


def find_token(environment: Mapping[str, str], home: Path) -> str | None:
    """The token of this user, if there is one, in the order of `PLACES`."""
    if token := environment.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else home / ".ray" / "auth_token"
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def headers(environment: Mapping[str, str], home: Path) -> dict[str, str]:
    """What a request to the Jobs API carries; nothing where there is no token or `RAY_AUTH_MODE` is `disabled`."""
    token = find_token(environment, home)
    if token is None or environment.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return {}
    return {"Authorization": f"Bearer {token}"}
