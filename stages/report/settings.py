"""Settings of the report stage."""

from dataclasses import dataclass


@dataclass
class ReportSettings:
    title: str = "codetune"  # heading of reports/index.html
