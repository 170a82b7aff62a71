"""Templates into answers: every text visible and escaped by default, put into the shell by its own script."""

from http import HTTPStatus
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from agentkeys_core.errors import KeyServiceError
from device.errors import DeviceError
from device.local_web import Reply
from device.visible import visible


def _shown(value: object) -> object:
    """What stands for a value on a page; what is markup already was shown by the template that made it."""
    return visible(value) if type(value) is str else value


_TEMPLATES: Final = Environment(
    loader=PackageLoader("device.console"),
    autoescape=True,
    finalize=_shown,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(template: str, *, status: HTTPStatus = HTTPStatus.OK, **given: object) -> Reply:
    """One page."""
    html = _TEMPLATES.get_template(template).render(**given)
    return Reply(status=status, body=html.encode(), kind="text/html; charset=utf-8")


def refused_page(error: DeviceError | KeyServiceError, status: HTTPStatus = HTTPStatus.OK) -> Reply:
    """Says by name why something did not work."""
    return page("refused.html", status=status, reason=str(error.reason), detail=error.detail)
