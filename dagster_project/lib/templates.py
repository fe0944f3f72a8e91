"""Ready mappings of well-known services, shipped with the project; a home takes a copy and may change it."""

from dataclasses import dataclass
from pathlib import Path

from dagster_project.lib.contracts import Mapping, load_channels, parse_sources, source_files
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import PROJECT_ROOT, Home

FOLDER = PROJECT_ROOT / "dagster_project" / "templates"


@dataclass(frozen=True)
class Template:
    """One service; its locations lie below a folder of its name."""

    name: str
    file: Path
    mappings: tuple[Mapping, ...]

    def text(self, location: str | None = None) -> str:
        """The YAML, with its files below another folder or URL where one is given."""
        text = self.file.read_text(encoding="utf-8")
        return text.replace(f"location: {self.name}/", f"location: {location.rstrip('/')}/") if location else text


def templates() -> list[Template]:
    """All shipped templates, by name.

    Raises:
        OnefoldError: a template is not well formed.
    """
    return [Template(file.stem, file, tuple(parse_sources(file))) for file in sorted(FOLDER.glob("*.yaml"))]


def check_templates(home: Home) -> int:
    """How many templates there are; each fits the contracts, and all of them fit together.

    Raises:
        OnefoldError: names file, key and remedy.
    """
    load_channels(home, sources=[template.file for template in templates()])
    return len(templates())


def add_template(home: Home, name: str, location: str | None = None) -> Path:
    """Copy a template to the home's `sources/`; one that is there already, unchanged, is left alone.

    Args:
        location: folder below landing/, absolute path or URL that holds the service's files; default: the service's name.

    Raises:
        OnefoldError: there is no such template, the home has a file of that name with other content, or it would not fit
            beside the home's other sources.
    """
    known = {template.name: template for template in templates()}
    if name not in known:
        raise OnefoldError(f"there is no template '{name}'; there are {', '.join(known)}")
    text = known[name].text(location)
    file = home.prepare().sources / f"{name}.yaml"
    if file.exists():
        if file.read_text(encoding="utf-8") != text:
            raise OnefoldError(f"{file}: is there already, with other content; move it away first to take the template anew")
        return file
    draft = file.with_suffix(".draft")
    draft.write_text(text, encoding="utf-8")
    try:
        load_channels(home, sources=[*source_files(home), draft])
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    return file
