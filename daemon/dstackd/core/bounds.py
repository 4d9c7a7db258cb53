"""What the operator allows at a time. Law: values and look-ups; 0 is no bound, and a project without an entry has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class ProjectBounds:
    """For one project."""

    max_machines: int = 0
    max_vcpus: int = 0
    budget_per_day_usd: float = 0.0
    """From midnight to midnight, UTC."""
    weight: float = 1.0
    """Its share of what is given out, against the weights of the other projects. Above 0."""


@dataclass(frozen=True, slots=True)
class DayBudget:
    """USD from midnight to midnight, UTC, for all projects together (`shared`) or for one."""

    name: str
    usd: float
    shared: bool


@dataclass(frozen=True, slots=True)
class Bounds:
    """For all jobs together, and for projects."""

    max_machines: int = 0
    max_vcpus: int = 0
    launches_per_minute: int = 0
    """Machines within any 60 s."""
    budget_per_day_usd: float = 0.0
    """From midnight to midnight, UTC."""
    projects: Mapping[str, ProjectBounds] = field(default_factory=lambda: MappingProxyType({}))
    """Those that have bounds or a weight of their own."""

    def of(self, project: str) -> ProjectBounds:
        """A project's own bounds."""
        return self.projects.get(project, _NO_BOUNDS)

    def vcpus_of(self, project: str) -> list[tuple[str, int]]:
        """(name, vCPUs) of each bound that a job of the project has to keep."""
        return [
            (name, vcpus)
            for name, vcpus in (
                (f"max_vcpus of project {project}", self.of(project).max_vcpus),
                ("max_vcpus", self.max_vcpus),
            )
            if vcpus > 0
        ]

    def budgets_of(self, project: str) -> list[DayBudget]:
        """Each budget that a job of the project has to keep, the project's first."""
        own = DayBudget(
            f"budget_per_day_usd of project {project}",
            self.of(project).budget_per_day_usd,
            shared=False,
        )
        shared = DayBudget("budget_per_day_usd", self.budget_per_day_usd, shared=True)
        return [budget for budget in (own, shared) if budget.usd > 0]

    @property
    def weights(self) -> dict[str, float]:
        """Of the projects that have one."""
        return {name: project.weight for name, project in self.projects.items()}

    @property
    def has_daily_budget(self) -> bool:
        """Whether the day's spending has to be known."""
        own = (project.budget_per_day_usd for project in self.projects.values())
        return self.budget_per_day_usd > 0 or any(budget_usd > 0 for budget_usd in own)


_NO_BOUNDS = ProjectBounds()
