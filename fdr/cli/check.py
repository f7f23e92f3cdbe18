"""`fdr check`: numbers against limits and a baseline, with an exit code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from fdr.cli import _options
from fdr.cli._inputs import InputCommand, read_reports
from fdr.cli._measurement import Measurement, announce_failures, measurement
from fdr.cli._outputs import check_written, write_text
from fdr.cli._progress import progress_for
from fdr.cli._verdict_outputs import Outputs, verdict_outputs
from fdr.errors import InputError

if TYPE_CHECKING:
    from fdr.gate import Baseline, GateOptions, Row
    from fdr.reports import Report


@dataclass(frozen=True)
class _Task:
    """The limits to check, and the baseline to compare with or to write."""

    options: GateOptions
    where: str | None
    """The name of the baseline, as it was given."""
    baseline: Baseline | None = None
    """The baseline to compare with."""
    target: Path | None = None
    """The baseline to write."""
    replaced: Baseline | None = None
    """The content of `target`, if it must not be lost."""
    nulls: tuple[Baseline, ...] = ()
    """The numbers of the unchanged model at other seeds."""

    @classmethod
    def of(
        cls,
        maxima: Sequence[str],
        minima: Sequence[str],
        baseline: str | None,
        tolerances: Sequence[str],
        allow: Sequence[str],
        allow_missing: bool,
        inconclusive: Literal["value", "pass", "fail", "exit-3"],
        confidence: float,
        null: Sequence[str],
        update_baseline: bool,
        force: bool,
    ) -> _Task:
        """Make a task from the options. Raises `UsageError` and `InputError` for options that do not go together."""
        from fdr.gate import GateOptions, load_baseline

        options = GateOptions.parse(maxima, minima, tolerances, allow, inconclusive, allow_missing, confidence)
        if baseline is None and (tolerances or allow):
            raise click.UsageError("--tolerance and --allow go with --baseline.")
        if force and not update_baseline:
            raise click.UsageError("--force goes with --update-baseline.")
        nulls = tuple(map(load_baseline, dict.fromkeys(null)))
        if not update_baseline:
            return cls(options, baseline, None if baseline is None else load_baseline(baseline), nulls=nulls)
        if baseline is None:
            raise click.UsageError("--update-baseline needs --baseline FILE, the file to write.")
        if nulls and not options.limits:
            raise click.UsageError("--null goes with --max, --min, or a baseline to compare with.")
        return cls(options, baseline, None, Path(baseline), _replaced(baseline, force), nulls)

    @property
    def judges(self) -> bool:
        """True when there is a verdict; False when a baseline is only written."""
        return bool(self.options.limits) or self.target is None

    def check_files(self, inputs: Sequence[str], outputs: Outputs) -> None:
        """Raise if there is no verdict for the files to hold, or if a report would be compared with itself."""
        if not self.judges and outputs.verdicts:
            raise click.UsageError("--update-baseline without limits gives no verdict that could be written to a file.")
        for item in inputs if self.baseline is not None else ():
            if Path(item).is_file() and Path(str(self.where)).is_file() and Path(item).samefile(str(self.where)):
                raise InputError(
                    f"{item!r} is both the report and the baseline, so every check would pass; name another."
                )


def _replaced(where: str, is_forced: bool) -> Baseline | None:
    """The baseline in the file that --update-baseline writes, if it must not be lost."""
    from fdr.gate import load_baseline

    target = Path(where)
    if not target.exists() and ":" in where:
        raise InputError(f"--update-baseline writes a file, and {where!r} is a git revision; give the FILE to commit.")
    check_written("baseline", target, "json")
    if is_forced or not target.exists():
        return None
    replaced = load_baseline(where)
    if replaced.is_report:
        raise InputError(
            f"{where!r} is a whole report, and --update-baseline would replace it by the values alone; name another "
            "file, or give --force."
        )
    return replaced


_gate = _options.theme(
    "task",
    _Task.of,
    _options.option(
        "--max NAME=NUMBER",
        "Fail if the number is above this limit: fd:inception=3.0, fdr_k=4. May be repeated.",
        name="maxima",
        multiple=True,
    ),
    _options.option(
        "--min NAME=NUMBER",
        "Fail if the number is below this limit: is:inception=200. May be repeated.",
        name="minima",
        multiple=True,
    ),
    _options.option(
        "--baseline FILE|REV:PATH",
        "Earlier numbers to compare with: a report, or a file that --update-baseline wrote, on disk or in a git "
        "revision (origin/main:fdr.json).",
    ),
    _options.option(
        "--tolerance [NAME=]AMOUNT",
        "How much worse than the baseline a number may be: 1%, fd=2%, fd:random=0.05. The most specific one "
        "applies; may be repeated.  [default: 1%]",
        name="tolerances",
        multiple=True,
    ),
    _options.option(
        "--allow FIELD",
        "Compare with the baseline even if this field of the signature differs (n, ref, rs, ...). May be repeated.",
        multiple=True,
    ),
    _options.switch(
        "--allow-missing",
        "Pass even if a number that has a limit or is in the baseline was not measured. Without this option "
        "the exit code is then 2.",
    ),
    _options.option(
        "--inconclusive",
        "How to judge a number whose uncertainty interval contains the limit: by its value alone, as passed, as "
        "failed, or as neither, with exit code 3.",
        type=click.Choice(["value", "pass", "fail", "exit-3"]),
        default="value",
    ),
    _options.confidence(
        "passing and of failing, one-sided: the interval of a number is its standard error times the "
        "normal quantile of P to both sides"
    ),
    _options.option(
        "--null FILE|REV:PATH",
        "A report of the unchanged model at another seed. A limit or tolerance that its numbers break is refused, with "
        "the smallest one that they keep. May be repeated; from two on, a warning says what a further run needs.",
        multiple=True,
    ),
    _options.switch("--update-baseline", "Write the numbers to --baseline instead of comparing with it."),
    _options.switch(
        "--force", "Let --update-baseline drop numbers, replace numbers of other signatures, or overwrite a report."
    ),
)


@click.command(
    "check",
    cls=InputCommand,
    epilog="Examples:\n\n  fdr check report.json --max fd:inception=3.0 --max fdr_k=4\n\n"
    "  fdr check report.json --baseline origin/main:fdr.json --tolerance 1%\n\n"
    "  fdr check samples.npz --ref stats.npz --reps inception --max fd:inception=3.0 --junit fdr.xml\n\n"
    "  fdr check --gen runs/a --reps inception --max fd:inception=3.0\n\n"
    "  fdr check report.json --baseline fdr.json --update-baseline",
)
@click.argument("inputs", nargs=-1, metavar="SAMPLES|REPORT...")
@verdict_outputs
@_gate
@measurement
@_options.quiet
def command(inputs: tuple[str, ...], task: _Task, outputs: Outputs, measurement: Measurement, quiet: bool) -> int:
    """Check numbers against limits and a baseline. The exit code is 0 when all pass, 1 when one fails, and 2 for wrong
    use or when a number to be checked was not measured. A number with a standard error that passes or fails with less
    than the confidence is inconclusive.

    REPORT is a file that fdr eval --json wrote; checking it needs no torch. SAMPLES, or a generator (--gen), are
    measured first, as fdr eval does. Limits can also be set in [tool.fdr.check] of pyproject.toml or [check] of
    fdr.toml: max = {"fd:inception" = 3.0}. A number is refused when its signature differs from that of the baseline.
    If the check ends with an error, its output files say so.
    """
    from fdr.reports import sets_by_name

    if not inputs and measurement.drawn is None:
        raise click.UsageError("Name a report, sample sets, or a generator with --gen.")
    task.check_files(inputs, outputs)
    read = read_reports(inputs, "checked")
    if read is None:
        reports = _measure(inputs, task, outputs, measurement, quiet)
    elif outputs.report is not None:
        raise click.UsageError("--report goes with samples; the input is a report already.")
    else:
        reports = [report for found in read.values() for report in found]
        if outputs.is_dry:
            _check_plan({name: tuple(found) for name, found in sets_by_name(reports).items()}, task)
    return 0 if outputs.is_dry else _finish(reports, task, outputs)


def _measure(
    samples: Sequence[str], task: _Task, outputs: Outputs, measurement: Measurement, quiet: bool
) -> list[Report]:
    from fdr.reports import reports_to_json, unique_names

    with measurement.computing.on_ranks(progress_for(quiet)) as setup:
        evaluator, sources = measurement.prepare(samples, setup, dry_run=outputs.is_dry)
        names = unique_names([source.name for source in sources])
        _check_plan({name: tuple(evaluator.planned(s)) for name, s in zip(names, sources, strict=True)}, task)
        if outputs.is_dry:
            for line in evaluator.plan(sources) if setup.is_main else ():
                click.echo(line)
            return []
        reports = [evaluator.evaluate_source(source) for source in sources]
    if not setup.is_main:
        raise click.exceptions.Exit(0)  # main judges
    if outputs.report is not None:
        write_text(outputs.report, reports_to_json(reports))
    announce_failures(reports)
    return reports


def _check_plan(planned: Mapping[str, Sequence[Row]], task: _Task) -> None:
    """Raise the errors now that checking these numbers would raise after they were measured."""
    from fdr.gate import check_replaceable, plan_gate

    if task.judges:
        plans = plan_gate(planned, task.options, task.baseline, task.nulls)
        missing = [bound.if_missing for plan in plans.values() for bound in plan.missing]
        if missing and not task.options.allow_missing:
            raise InputError(f"{'; '.join(missing)}. Measure what is missing, or give --allow-missing.")
    if task.replaced is not None:
        check_replaceable(planned, task.replaced, task.options.allow)


def _finish(reports: list[Report], task: _Task, outputs: Outputs) -> int:
    from fdr.gate import check_replaceable, judge
    from fdr.reports import sets_by_name

    if task.judges:
        verdict = judge(reports, task.options, task.baseline, task.nulls)
        outputs.write(verdict)
        if not verdict.passes:
            return verdict.exit_code
    if task.target is not None:
        if task.replaced is not None:
            sets = {name: tuple(report) for name, report in sets_by_name(reports).items()}
            check_replaceable(sets, task.replaced, task.options.allow)
        _write_baseline(reports, task.target, task.replaced, outputs)
    return 0


def _write_baseline(reports: list[Report], target: Path, replaced: Baseline | None, outputs: Outputs) -> None:
    from fdr.gate import baseline_of, save_baseline

    new = baseline_of(reports, str(target))
    save_baseline(new, target)
    old_sets = replaced.sets if replaced is not None else {}
    for name, rows in new.sets.items():
        for key, row in rows.items():
            old = old_sets.get(name, {}).get(key)
            before = "" if old is None else f" (was {old.value:.6g})"
            click.echo(f"{target}: {key} of {name} is {row.value:.6g}{before}", err=not outputs.spares_stdout)
