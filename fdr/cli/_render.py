"""Prints tables on stdout, and a live one on stderr."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from fdr.errors import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fdr.comparison import Comparison, Effect, PanelNumber, Ranking
    from fdr.gate import Verdict
    from fdr.reports import Report


class LiveTable:
    """A table on stderr that is drawn over itself, from `__enter__` to `__exit__`."""

    def __init__(self, headers: Sequence[str], right: Collection[str] = ()) -> None:
        from rich.console import Console
        from rich.live import Live

        self._headers, self._right = headers, right
        self._live = Live(console=Console(stderr=True), refresh_per_second=4)

    def __enter__(self) -> LiveTable:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    @contextmanager
    def still(self) -> Iterator[None]:
        """Stop drawing inside the block, where something else is drawn, and go on below it."""
        self._live.stop()
        try:
            yield
        finally:
            self._live.start()

    def show(self, rows: Iterable[Sequence[str]], lines: Iterable[str]) -> None:
        """The rows, and the lines below them."""
        from rich.console import Group
        from rich.text import Text

        self._live.update(Group(_table(self._headers, rows, self._right), *(Text(line) for line in lines if line)))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()) -> None:
    """A table on stdout; the columns with a header in `right` are aligned there."""
    _console().print(_table(headers, rows, right))


def _console() -> Console:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=max(120, console.width), soft_wrap=True)


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(header, justify="right" if header in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # a name in brackets is no markup
    return table


def print_reports(reports: Sequence[Report]) -> None:
    """One table over all sample sets, a row per encoder; then notes, and every signature once."""
    first = reports[0]
    if first.reference is not None:
        count = first.reference.get("count")
        facts = [
            *([f"{count} images"] if count else []),
            *(["no --ref was given"] if "is_default" in first.reference else []),
        ]
        click.echo(f"reference  {first.reference['name']}" + (f" ({', '.join(facts)})" if facts else ""))
    _print_numbers(*report_table(reports), labels=["samples", "encoder", "n"])
    _print_notes_and_signatures(reports)


def _print_numbers(headers: list[str], rows: list[list[str]], labels: list[str]) -> None:
    """A column for each metric behind the `labels`; a row for each number where the columns are too wide for that."""
    width = sum(max(map(len, column)) + 2 for column in zip(headers, *rows, strict=True))
    if width > _console().width:
        first = len(labels)
        numbers = [(row[:first], zip(headers[first:], row[first:], strict=True)) for row in rows]
        rows = [[*start, metric, value] for start, cells in numbers for metric, value in cells if value]
        headers = [*labels, "metric", "value"]
    print_table(headers, rows, right=[header for header in headers[1:] if header not in ("encoder", "metric")])


def print_autoencoder_report(report: Report) -> None:
    """The autoencoder and its neighbours, the distances of every encoder, the reconstructions, the signatures."""
    from fdr.reports import format_number

    about = report.run["ifid"]
    others = about["neighbours"]
    model = report.run["autoencoder"]
    click.echo(
        f"autoencoder  {model['name']} ({model['posterior']}), latents {'x'.join(map(str, about['latent_shape']))}"
    )
    click.echo(f"images       {report.samples['source']} ({report.samples['count']})")
    entropy, most = (format_number(value) for value in (about["neighbour_entropy"], math.log(about["top_k"])))
    click.echo(
        f"neighbours   {others['source']} ({others['count']}), one of {about['top_k']} by closeness, entropy {entropy} "
        f"of {most}; {about['mode']}, alpha {about['alphas'][-1]:g}"
    )
    _print_reconstructions(report)


def print_reconstruction_report(report: Report) -> None:
    """The originals and the reconstructions, the distances of every encoder, the scores, the signatures."""
    assert report.reference is not None
    click.echo(f"originals        {report.reference['name']}")
    model = report.run.get("autoencoder")
    made = f"by {model['name']} ({model['posterior']})" if model else report.samples["source"]
    by = "" if model else f", matched by {report.run['matched_by']}"
    click.echo(f"reconstructions  {made} ({report.samples['count']}{by})")
    _print_reconstructions(report)


def _print_reconstructions(report: Report) -> None:
    """The distances of every encoder in a table, the scores of reconstructions in a line, notes and signatures."""
    from fdr.reports import format_value, metric_label

    distances = [result for result in report if result.encoder is not None]
    headers, rows = report_table([replace(report, results=tuple(distances))])
    _print_numbers(headers[1:], [row[1:] for row in rows], labels=["encoder", "n"])
    arrows = {True: "↓", False: "↑"}
    rest = [result for result in report if result.encoder is None]
    qualities = (f"{metric_label(r)} {arrows[r.lower_is_better]} {format_value(r)}" for r in rest)
    click.echo("reconstructions: " + "   ".join(qualities))
    _print_notes_and_signatures([report])


def report_table(reports: Sequence[Report]) -> tuple[list[str], list[list[str]]]:
    """Headers and cells: a row per sample set and encoder, a column per metric; FDr^k has a row of its own."""
    from fdr.metrics import DERIVED, mean_of
    from fdr.reports import format_value, is_inception, metric_label

    results = [result for report in reports for result in report]
    columns: dict[str, str] = {}
    for result in results:
        metric = mean_of(result.metric) or result.metric
        labels = {metric_label(r) for r in results if r.metric == metric} or {"FDr"}
        label = labels.pop() if len(labels) == 1 else min(labels).replace("FID", "FD")
        columns[metric] = f"{label} {'↓' if result.lower_is_better else '↑'}"
    is_mixed = len({is_inception(result.encoder) for result in results if result.encoder}) > 1
    rows: dict[tuple[int, str, str], dict[str, str]] = {}  # by set, encoder and number of images

    def named_encoder(name: str | None) -> str:
        return (name or "") + (" (FID)" if is_mixed and is_inception(name) else "")

    for index, report in enumerate(reports):
        for result in report:
            metric = mean_of(result.metric) or result.metric
            if metric != result.metric:
                _, colon, group = result.metric.partition(":")
                mean = f"fdr_k{colon}{group}" if metric in DERIVED else result.metric  # means of ratios share a row
                row = f"{metric_label(replace(result, metric=mean))} (mean of {result.k})"
            else:
                row = named_encoder(result.encoder)
            cells = rows.setdefault((index, row, str(result.count)), {})
            cells[metric] = format_value(result)
        for failure in report.failed:
            if failure.encoder is not None:
                place = (index, named_encoder(failure.encoder), str(report.samples["count"]))
                cells = rows.setdefault(place, {})
                cells[failure.metric] = "failed"
                columns.setdefault(failure.metric, _failed_column(failure.metric))
    table = [
        [str(reports[index].samples["source"]), row, count, *(cells.get(metric, "") for metric in columns)]
        for (index, row, count), cells in rows.items()
    ]
    return ["samples", "encoder", "n", *columns.values()], table


def _failed_column(metric: str) -> str:
    """The heading of a metric that no sample set has a number of."""
    from fdr.metrics import metric_info

    info = metric_info(metric)
    return metric if info is None else f"{info.label} {'↓' if info.lower_is_better else '↑'}"


def print_verdict(verdict: Verdict) -> None:
    """A row per check, four sentences for each that does not pass, what was not checked, and the result."""
    from fdr.gate import findings_of, table_of

    numbers = ("value", "limit", "beyond the limit")
    print_table(("samples", "number", *numbers, "outcome"), table_of(verdict), right=numbers)
    for finding in findings_of(verdict):
        if finding.outcome == "skipped":
            click.echo(f"skipped: {finding.sentences[0]}")
        elif finding.outcome != "pass":
            click.echo("\n".join([f"{finding.outcome}:", *(f"  {text}" for text in finding.sentences)]))
    if verdict.unchecked:
        click.echo("neither limit nor baseline: " + ", ".join(dict.fromkeys(row.key for _, row in verdict.unchecked)))
    for warning in verdict.warnings:
        click.echo(f"warning: {warning}")
    counted = ""
    if verdict.result == "inconclusive":
        ends = {0: "counts as pass", 1: "counts as fail"}
        counted = f" ({ends.get(verdict.exit_code, f'exit code {verdict.exit_code}')})"
    click.echo(f"result: {verdict.result}{counted}")


def print_comparison(name_a: str, name_b: str, comparison: Comparison, effects: tuple[Effect, ...]) -> None:
    """A row per pair of numbers, then which fields differ and how much that usually changes FD."""
    from fdr.comparison import explanations
    from fdr.reports import format_number, format_value

    click.echo(f"a  {name_a}\nb  {name_b}")
    rows = []
    for pair in comparison.pairs:
        relative = pair.relative_change
        change = format_number(pair.change) + ("" if relative is None else f" ({100 * relative:+.2f} %)")
        key = pair.a.key if pair.a.key == pair.b.key else f"{pair.a.key}, {pair.b.key}"
        rows.append((key, format_value(pair.a), format_value(pair.b), change, "yes" if pair.is_comparable else "no"))
    if rows:
        print_table(("number", "a", "b", "b − a", "comparable"), rows, right=("a", "b", "b − a"))
    for line in explanations(comparison, effects):
        click.echo(line)


def print_panel(numbers: Sequence[PanelNumber]) -> None:
    """Each number: the spreads of every model, the ranks, the pairs; then what a reader must know."""
    from fdr.comparison import pair_cells, panel_notes
    from fdr.reports import format_number, format_stderr

    def spread(value: float | None, share: float | None) -> str:
        percent = "" if share is None else f" ({100 * share:.2f} %)"
        return "unknown" if value is None else f"{format_number(value)}{percent}"

    for number in numbers:
        click.echo(f"{number.key} ({'lower' if number.ranking.lower_is_better else 'higher'} is better)")
        rows = []
        for rank in number.ranking.ranks:
            one = number.models[rank.name]
            mean = format_number(one.mean) + ("" if one.stderr is None else f" ± {format_stderr(one.stderr)}")
            spreads = [spread(value, one.share(value)) for value in (one.between, one.within)]
            rows.append((str(rank), rank.name, str(one.num_runs), str(one.num_values), mean, *spreads))
        numeric = ("training seeds", "reports", "mean", "between training seeds", "between samplings")
        print_table(("rank", "model", *numeric), rows, right=numeric)
        numeric = ("difference", "stderr", "p", "p (Holm)", "resolved gap")
        pairs = [pair_cells(found, number.ranking, found.a, found.b) for found in number.ranking.contrasts]
        if pairs:
            gaps = [found.resolves(number.ranking.confidence) for found in number.ranking.contrasts]
            table = [
                (*cells[:5], "" if gap is None else format_number(gap), cells[-1])
                for cells, gap in zip(pairs, gaps, strict=True)
            ]
            print_table(("pair", *numeric, "verdict"), table, right=numeric)
    for note in panel_notes(numbers):
        click.echo(f"note: {note}")


def print_rankings(rankings: Sequence[Ranking]) -> None:
    """Each number of comparable sets: a verdict on the pair, or a table of ranks and a verdict on every pair."""
    from fdr.comparison import pair_cells, ranking_notes, verdict_of
    from fdr.reports import format_number

    for ranking in rankings:
        if not ranking.has_noise:
            continue
        if len(ranking.ranks) == 2:
            click.echo(verdict_of(ranking.contrasts[0], ranking))
            continue
        click.echo(f"{ranking.key}, best first ({'lower' if ranking.lower_is_better else 'higher'} is better)")
        letters = {name: _letter(index) for index, name in enumerate(ranking.names)}
        ranks = [
            (str(at), letters[at.name], at.name, format_number(at.value), ", ".join(letters[tie] for tie in at.ties))
            for at in ranking.ranks
        ]
        print_table(("rank", "", "samples", "value", "not told apart from"), ranks, right=("value",))
        pairs = [pair_cells(found, ranking, letters[found.a], letters[found.b]) for found in ranking.contrasts]
        numbers = ("difference", "stderr", "p", "p (Holm)")
        print_table(("pair", *numbers, "noise", "verdict"), pairs, right=numbers)
    for note in ranking_notes(rankings):
        click.echo(f"note: {note}")


def _letter(index: int) -> str:
    """a, b, ..., z, 27, 28, ..."""
    return chr(ord("a") + index) if index < 26 else str(index + 1)


def print_notes(reports: Sequence[Report]) -> None:
    """What a reader of the numbers must know, once each."""
    for note in dict.fromkeys(_notes(reports)):
        click.echo(f"note: {note}")


def _print_notes_and_signatures(reports: Sequence[Report]) -> None:
    print_notes(reports)
    for signature in dict.fromkeys(result.signature for report in reports for result in report):
        click.echo(signature)


def _notes(reports: Sequence[Report]) -> Iterable[str]:
    for report in reports:
        several = f"{report.samples['source']}: " if len(reports) > 1 else ""
        for result in report:
            yield from (f"{several}{result.encoder or result.key}: {note}" for note in result.notes)
        skipped = report.samples["skipped"]
        if skipped:
            named = ", ".join(item["id"] for item in skipped[:5]) + (", ..." if len(skipped) > 5 else "")
            yield f"{several}{len(skipped)} image(s) skipped: {named}"
        if report.run.get("ifid", {}).get("same_class"):
            yield f"{several}classes from {report.samples.get('labels_from')}"
        left_out = report.samples.get("left_out")
        if left_out:
            from fdr.images import left_out_text

            yield f"{several}left out: {left_out_text(left_out)}"
