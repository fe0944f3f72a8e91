"""Settings of one home: few, with defaults, overridden in `$ONEFOLD_HOME/onefold.yaml`."""

from zoneinfo import available_timezones

import phonenumbers
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home


class Settings(BaseModel):
    """What differs from company to company. Each is handed to dbt as a variable of the same name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_currency: str = Field("CNY", pattern="^[A-Z]{3}$", description="Amounts are converted to this currency (ISO 4217).")
    default_region: str = Field("CN", description="Phones without a country code belong to this region (ISO 3166-1).")
    default_time_zone: str = Field("UTC", description="Times without a zone are in this one, unless their source says.")
    landing_settle_seconds: float = Field(2, ge=0, description="A landed file is read once it is unchanged for so long.")
    serving_keep_versions: int = Field(3, ge=1, description="Older serving versions kept for those who still read them.")
    serving_keep_minutes: float = Field(60, ge=0, description="…and for at least so long after they were replaced.")

    @field_validator("default_region")
    @classmethod
    def _region_exists(cls, value: str) -> str:
        if value not in phonenumbers.SUPPORTED_REGIONS:
            raise ValueError("is not an ISO 3166-1 region such as CN, US or GB")
        return value

    @field_validator("default_time_zone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError("is not an IANA time zone such as Asia/Shanghai")
        return value

    @classmethod
    def of(cls, home: Home) -> "Settings":
        """Read a home's settings.

        Raises:
            OnefoldError: a key is unknown or a value wrong; names file, key and remedy.
        """
        file = home.path / "onefold.yaml"
        try:
            given = yaml.safe_load(file.read_text()) if file.exists() else {}
            return cls.model_validate(given or {})
        except yaml.YAMLError as error:
            raise OnefoldError(f"{file}: not valid YAML: {error}") from error
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise OnefoldError(f"{file}: {problems}. Known settings: {', '.join(cls.model_fields)}") from error
