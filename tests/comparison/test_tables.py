"""fdr.comparison.tables: what is read, what is left out, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdr.comparison import points, read_table
from fdr.errors import InputError


def table(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("name,a,b\nA,1,2\nB,3,4\n", "t.csv"),
        ("name\ta\tb\nA\t1\t2\nB\t3\t4\n", "t.tsv"),
        ("name\ta\tb\nA\t1\t2\nB\t3\t4", "t.txt"),
        ("name;a;b\r\nA;1;2\r\nB;3;4\r\n", "t.csv"),
        ("\ufeffname , a, b\n\nA, 1 ,2\n  ,,\nB,3e0,4.0\n", "t.csv"),
    ],
    ids=["csv", "tsv", "tabs", "semicolons", "spaces"],
)
def test_layouts(tmp_path, text, name):
    found = points(read_table(table(tmp_path, text, name)), "a", "b", "name")
    assert (found.x, found.y, found.labels, found.left_out) == ((1, 3), (2, 4), ("A", "B"), ())


def test_quoted_cells_may_hold_commas_and_lines(tmp_path):
    path = table(tmp_path, 'name,a,b\n"A, the\nfirst",1,2\nB,x,4\n')
    assert read_table(path).column("name")[0] == "A, the\nfirst"
    with pytest.raises(InputError, match="line 4: a is 'x'"):
        points(read_table(path), "a", "b")


@pytest.mark.parametrize("cell", ["", " ", "-", "–", "—", "NaN", "nan", "NA", "n/a", "None", "NULL"])
def test_rows_without_a_number_are_left_out_and_named(tmp_path, cell):
    read = read_table(table(tmp_path, f"name,a,b\nA,1,2\nB,{cell},3\nC,4,{cell}\nD,5,6\n"))
    assert points(read, "a", "b", "name").left_out == ("B", "C")
    found = points(read, "a", "b")
    assert (found.x, found.y, found.left_out, found.labels) == ((1, 5), (2, 6), ("line 3", "line 4"), ())


def test_repeated_labels_are_found(tmp_path):
    read = read_table(table(tmp_path, "name,a,b\nA,1,2\nB,2,3\nA,4,5\nB,-,1\n"))
    assert points(read, "a", "b", "name").repeated_labels() == ["A"]


@pytest.mark.parametrize("cell", ["abc", "inf", "-inf", "1.2%", '"1,234"', "1e999"])
def test_what_is_no_number_is_refused(tmp_path, cell):
    path = table(tmp_path, f"a,b\n1,2\n{cell},3\n")
    with pytest.raises(InputError, match=r"line 3: a is .*, not a finite number; empty the cell"):
        points(read_table(path), "a", "b")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty; expected a header"),
        ("\n\n", "is empty"),
        ("a,b\n1\n", "line 2: 1 cells, where the header has 2"),
        ("a,b\n1,2,3\n", "line 2: 3 cells"),
        (b"a,b\n\xff\xfe,1\n", "no CSV or TSV table in UTF-8"),
        ('a,b\n"1,2\n', "no CSV or TSV table"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        read_table(table(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"Cannot read table .*none\.csv': No such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(InputError, match="Is a directory"):
        read_table(tmp_path)


def test_columns_are_named_exactly_and_once(tmp_path):
    read = read_table(table(tmp_path, "ifid,gfid,gfid\n1,2,3\n"))
    with pytest.raises(
        InputError, match=r"Unknown column 'iFID'; did you mean 'ifid' or 'gfid'\? The table is .*t\.csv"
    ):
        points(read, "iFID", "gfid")
    with pytest.raises(InputError, match="2 columns called 'gfid'; rename"):
        points(read, "ifid", "gfid")
    with pytest.raises(InputError, match="both are 'ifid'"):
        points(read, "ifid", "ifid")
