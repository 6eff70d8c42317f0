"""Routes for the model card of an adapter, and for the plots and tables beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter
from fastapi import Path as PathParameter
from fastapi.responses import JSONResponse, Response

from ...adapter.model_card import REPORT
from ...backbone.regular_file import check_regular_file
from ...errors import AdapterError, UnknownAdapterError
from ..bodies.responses import CardResponse
from ..bodies.schemas import Name
from ..middleware.auth import CallerDep, ServiceDep

MAX_BYTES = 2_000_000
"""Most bytes of a file that is sent; our own have less than a tenth of it."""

MEDIA_TYPES = {".png": "image/png", ".csv": "text/csv; charset=utf-8"}
"""By suffix, the files of a report that are sent. A browser runs neither as a script."""

FILE = re.compile(r"[\w-][\w.-]{0,79}", re.ASCII)

FileName = Annotated[str, PathParameter(json_schema_extra={"pattern": f"^{FILE.pattern}$"})]

router = APIRouter(prefix="/v1/cards", tags=["models"])


@router.get("/{name:adapter}", response_model=CardResponse)
async def model_card(name: Name, service: ServiceDep, caller: CallerDep) -> Response:
    """Return the model card of an adapter as Markdown, and the names of the files of its report."""
    version = await service.find(caller, name)
    content = await service.in_thread(_read, version.folder / "README.md")
    files = await service.in_thread(_report_files, version.folder)
    return JSONResponse(
        {
            "name": version.name,
            "version": version.number,
            "card": content.decode("utf-8", "replace"),
            "files": files,
        }
    )


@router.get(
    "/{name:adapter}/report/{file}",
    response_class=Response,
    responses={
        200: {
            "content": {
                media.partition(";")[0]: {"schema": {"type": "string", "format": "binary"}}
                for media in MEDIA_TYPES.values()
            }
        }
    },
)
async def report_file(
    name: Name, file: FileName, service: ServiceDep, caller: CallerDep
) -> Response:
    """Return one file of the report: a plot (PNG) or a table (CSV)."""
    version = await service.find(caller, name)
    if file not in await service.in_thread(_report_files, version.folder):
        raise UnknownAdapterError(f"the report of '{version.name}' has no file {file!r:.80}")
    content = await service.in_thread(_read, version.folder / REPORT / file)
    media_type = MEDIA_TYPES[Path(file).suffix]
    return Response(content, media_type=media_type, headers={"x-content-type-options": "nosniff"})


def _report_files(folder: Path) -> list[str]:
    """Names of the files of a report that can be sent, in order."""
    if not (folder / REPORT).is_dir():
        return []
    names = (path.name for path in (folder / REPORT).iterdir() if path.suffix in MEDIA_TYPES)
    return sorted(name for name in names if FILE.fullmatch(name))


def _read(path: Path) -> bytes:
    """A file; nothing if it is missing, as in a folder of PEFT.

    Raises:
        AdapterError: It is not a regular file, or too large.
    """
    try:
        check_regular_file(path, MAX_BYTES, AdapterError)
        return path.read_bytes()
    except FileNotFoundError:
        return b""
