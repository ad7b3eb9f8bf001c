"""Files as people have them: every kind, every encoding, and the line of everything that cannot be read."""

import json
import shlex
import tracemalloc
from itertools import islice
from pathlib import Path, PurePosixPath, PureWindowsPath

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from envcheck.facts import Finding
from kit.data.rows import readers, sources
from kit.support.errors import KitError, RowError
from tests.support.processes import run_python
from tests.support.results import findings_of

ROWS = [{"question": "How much is 2+2?", "answer": "4"}, {"question": "你是谁？\u2028", "answer": "a\x0bb"}]
TABLE = pa.table({"question": ["a", "b", "c"], "answer": ["1", "2", "3"]})
ANYTHING_ELSE = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def write(tmp_path: Path):
    """Content -> a file of that name."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def source(path: Path) -> sources.Source:
    (found,) = sources.find_files([str(path)])
    return found


def rows(path: Path) -> list[sources.RawRow]:
    found = list(sources.read_rows(source(path)))
    assert [raw.number for raw in found] == list(range(1, len(found) + 1))
    return found


def values(path: Path) -> list:
    return [raw.value for raw in rows(path)]


def lines(path: Path) -> list[int]:
    return [raw.line for raw in rows(path)]


def codes(path: Path) -> list[str | None]:
    """For each row the code of what is wrong with it."""
    return [value.code if isinstance(value, RowError) else None for value in values(path)]


def problems(*given: object) -> list[Finding]:
    return findings_of(sources.find_files, [str(name) for name in given])


def problem(*given: object, id: str) -> Finding:
    (finding,) = problems(*given)
    assert finding.id == id
    assert finding.fix
    return finding


# json lines


def test_json_lines(write) -> None:
    text = "\n".join(["", json.dumps(ROWS[0]), "  ", json.dumps(ROWS[1], ensure_ascii=False) + "\r"])
    path = write("rows.jsonl", text)
    assert values(path) == ROWS
    assert lines(path) == [2, 4]
    assert (source(path).kind, source(path).reason) == ("json lines", "the first character is {")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"a": 1', "Expecting ',' delimiter at character 9: {\"a\": 1"),
        ("[" * 100_000, "brackets nested too deeply"),
        ("1" * 5000, "integer string conversion"),
        ("\ufeff{}", "BOM"),
    ],
)
def test_a_line_that_does_not_parse_is_named_and_the_others_are_read(write, line: str, said: str) -> None:
    path = write("rows.jsonl", f'{{"a": 1}}\n{line}\n{{"a": 2}}\n')
    good, bad, after = values(path)
    assert (good, after) == ({"a": 1}, {"a": 2})
    assert bad.code == "data-line-does-not-parse"
    assert said in str(bad)
    assert lines(path) == [1, 2, 3]


def test_a_broken_first_line_does_not_hide_the_others(write) -> None:
    assert codes(write("rows.jsonl", '{"a": 1,\n{"a": 2}\n')) == ["data-line-does-not-parse", None]


def test_a_line_with_a_broken_byte_is_named(write) -> None:
    good = '{"a": "你好"}\n'.encode()
    path = write("rows.jsonl", good * 3 + b'{"a": "\xb0"}\n' + good)
    assert codes(path) == [None, None, None, "data-not-utf8", None]
    assert "byte 0xB0 at character 8" in str(values(path)[3])
    str(values(path)[3]).encode()


def test_files_come_in_one_order_on_every_system() -> None:
    names = ["B.jsonl", "a.jsonl", "a/z.jsonl"]
    for kind in (PurePosixPath, PureWindowsPath):
        assert [path.as_posix() for path in sources.in_order(map(kind, reversed(names)))] == [
            "B.jsonl",
            "a/z.jsonl",
            "a.jsonl",
        ]


# json lists and objects


def test_json_list_with_the_line_of_each_row(write) -> None:
    path = write("rows.json", json.dumps(ROWS, indent=2, ensure_ascii=False))
    assert values(path) == ROWS
    assert lines(path) == [2, 6]
    assert (source(path).kind, source(path).reason) == ("json list", "the first character is [")


def test_the_content_decides_between_lines_and_list(write) -> None:
    assert source(write("a.jsonl", json.dumps(ROWS))).kind == "json list"
    assert source(write("a.json", "\n".join(map(json.dumps, ROWS)))).kind == "json lines"
    assert source(write("a.txt", json.dumps(ROWS[0]))).kind == "json lines"
    assert source(write("no-ending", json.dumps(ROWS))).kind == "json list"


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("chunk_bytes", [1, 7, 1 << 20])
def test_a_list_is_the_same_in_pieces_of_any_size(write, monkeypatch, chunk_bytes: int, indent: int | None) -> None:
    monkeypatch.setattr(readers, "CHUNK_BYTES", chunk_bytes)
    content = [*ROWS, 12345, -1.5e-7, True, None, "é\\\n", {"deep": [[], {}, [{"x": float("inf")}]]}]
    path = write("rows.json", json.dumps(content, indent=indent) + "\n")
    assert values(path) == content


@pytest.mark.parametrize(
    "element",
    [
        "123456789012345678901234567890",
        "1e400",
        "-0.0",
        "1.5e-7",
        "-Infinity",
        '"x\\ud800"',
        '"\\u0000"',
        '{"a": 1, "a": 2}',
    ],
)
def test_values_of_a_list_are_those_of_pythons_json(write, element: str) -> None:
    (row,) = values(write("rows.json", f'[{{"a": {element}}}]'))
    assert repr(row) == repr({"a": json.loads(element)})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"a": 1},\n{"a": x},\n{"a": 3}]', 'Expecting value at character 7: {"a": x}'),
        ('[{"a": 1},\n', "the file ends before the list does"),
        ('[{"a": 1},\n{"a": "cut', "Unterminated string"),
        ('[{"a": 1}]\n{"a": 2}\n', "the list has ended"),
        ('[{"a": 1},\n' + "[" * 100_000, "brackets nested too deeply"),
    ],
)
def test_what_stands_behind_a_broken_element_is_said_to_be_unread(write, text: str, said: str) -> None:
    first, broken = rows(write("rows.json", text))
    assert first.value == {"a": 1}
    assert broken.value.code == "data-line-does-not-parse"
    assert said in str(broken.value)
    assert "read" in str(broken.value)


def test_a_broken_byte_in_a_list_spoils_one_element(write) -> None:
    text = json.dumps([{"a": "你"}, {"a": "好"}, {"a": "吗"}], ensure_ascii=False, indent=0).encode()
    path = write("rows.json", text.replace("好".encode(), b"\xff"))
    assert codes(path) == [None, "data-not-utf8", None]


@pytest.mark.parametrize("indent", [None, 1])
def test_one_object_around_a_list_of_rows(write, indent: int | None) -> None:
    path = write("rows.json", json.dumps({"version": [1], "inner": {"data": [1]}, "data": ROWS, "x": 1}, indent=indent))
    assert values(path) == ROWS
    assert source(path).reason == "the file is one object, and its list 'data' holds the rows"
    assert lines(path) == ([1, 1] if indent is None else [11, 15])


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("row", [ROWS[0], {"messages": [{"role": "user", "content": "Hi"}]}, {"a": [{}], "b": [{}]}])
def test_one_object_can_be_the_only_row(write, row: dict, indent: int | None) -> None:
    assert values(write("rows.json", json.dumps(row, indent=indent))) == [row]


# csv and tsv


def test_csv_with_line_breaks_in_quotes(write) -> None:
    path = write("rows.csv", 'question, answer\r\n"a\r\nb, ""c""",1\r\n\r\nd,\r\n')
    assert values(path) == [{"question": 'a\r\nb, "c"', "answer": "1"}, {"question": "d", "answer": ""}]
    assert lines(path) == [2, 5]


def test_tsv(write) -> None:
    assert values(write("rows.tsv", "q\ta\n1,5\t2\n")) == [{"q": "1,5", "a": "2"}]


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_another_separator_is_found_and_said(write, separator: str) -> None:
    path = write("rows.csv", f"q{separator}a\n1,5{separator}2\n")
    assert values(path) == [{"q": "1,5", "a": "2"}]
    (finding,) = source(path).findings
    assert (finding.id, finding.severity) == ("data-csv-separator", "warning")
    assert sources.SEPARATORS[separator] in finding.what


def test_a_single_column_stays_one(write) -> None:
    path = write("rows.csv", "text\na; b\nc\n")
    assert values(path) == [{"text": "a; b"}, {"text": "c"}]
    assert source(path).findings == ()


def test_rows_with_other_numbers_of_cells_are_named(write) -> None:
    path = write("rows.csv", "q,a\n1,2\nyes, it is,3\n4\n5,6\n")
    assert codes(path) == [None, "data-csv-cells", "data-csv-cells", None]
    assert "3 cells where the header has 2" in str(values(path)[1])
    assert lines(path) == [2, 3, 4, 5]


def test_a_quote_that_is_never_closed_is_named(write) -> None:
    path = write("rows.csv", 'q,a\n1,2\n3,"4\n5,6\n')
    assert codes(path) == [None, "data-line-does-not-parse"]
    assert lines(path) == [2, 3]


def test_nul_and_broken_bytes_in_cells_are_named(write) -> None:
    path = write("rows.csv", "q,a\né,é\nü,ü\n1,\0\n2,".encode() + b"\xff\n3,4\n")
    assert codes(path) == [None, None, "data-nul-character", "data-not-utf8", None]


def test_long_cells_are_read(write) -> None:
    assert values(write("rows.csv", f"q,a\n{'x' * 200_000},1\n"))[0]["q"] == "x" * 200_000


def test_json_in_cells_of_chat_columns(write) -> None:
    path = write("rows.csv", 'id,messages\n[1],"[{""role"": ""user""}]"\n2,"[{\'role\': \'user\'}]"\n3,none\n')
    assert values(path)[0] == {"id": "[1]", "messages": [{"role": "user"}]}
    assert codes(path) == [None, "data-field-not-json", None]


@pytest.mark.parametrize("header", ["q,q", "q,", ',question\n0,"a"', '"q,a'])
def test_a_header_must_name_every_column(write, header: str) -> None:
    problem(write("rows.csv", f"{header}\n1,2\n"), id="data-csv-header")


# tables and text


def test_parquet(tmp_path) -> None:
    path = tmp_path / "rows.bin"
    pq.write_table(TABLE, path, row_group_size=2)
    assert values(path) == TABLE.to_pylist()
    assert lines(path) == [0, 0, 0]
    assert (source(path).kind, source(path).reason) == ("parquet", "its first bytes")


@pytest.mark.parametrize("new", [pa.ipc.new_file, pa.ipc.new_stream])
@pytest.mark.parametrize("compression", [None, "lz4"])
def test_arrow(tmp_path, new, compression: str | None) -> None:
    path = tmp_path / "rows.feather"
    with new(str(path), TABLE.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(TABLE, max_chunksize=2)
    assert values(path) == TABLE.to_pylist()
    assert source(path).kind == "arrow"


def test_a_table_is_cut_into_batches_and_read_to_the_end(tmp_path) -> None:
    many = pa.table({"a": range(2500)})
    for name in ("rows.parquet", "rows.arrow"):
        path = tmp_path / name
        if name == "rows.parquet":
            pq.write_table(many, path)
        else:
            with pa.ipc.new_file(str(path), many.schema) as writer:
                writer.write_table(many)
        told: list[int] = []
        assert [raw.value["a"] for raw in sources.read_rows(source(path), told.append)] == list(range(2500))
        assert told == sorted(told)
        assert told[-1] == path.stat().st_size


def test_a_value_that_python_cannot_hold_spoils_one_row(tmp_path) -> None:
    path = tmp_path / "rows.parquet"
    text = pa.array([b"good", b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"a": text}), path)
    assert codes(path) == [None, "data-not-utf8"]
    pq.write_table(pa.table({"a": pa.array([0, 1 << 60], pa.timestamp("ms"))}), path)
    assert codes(path) == [None, "data-value-unreadable"]


def test_a_table_that_breaks_off_is_said_to_be_unread(tmp_path) -> None:
    path = tmp_path / "rows.arrow"
    with pa.ipc.new_stream(str(path), TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=1)
    path.write_bytes(path.read_bytes()[:-40])
    assert codes(path)[-1] == "data-file-unreadable"
    assert codes(path)[0] is None


def test_paragraphs_of_text(write) -> None:
    path = write("rows.txt", "\n\none\r\n  two\r\n \r\n\r\nthree\n")
    assert values(path) == [{"text": "one\n  two"}, {"text": "three"}]
    assert lines(path) == [3, 7]
    assert "blank lines part the rows" in source(path).reason


def test_lines_of_text(write) -> None:
    path = write("rows.txt", "one\ntwo\u2028still two\n\n")
    assert values(path) == [{"text": "one"}, {"text": "two\u2028still two"}]
    assert lines(path) == [1, 2]
    assert "every line is a row" in source(path).reason


def test_a_broken_byte_spoils_one_paragraph(write) -> None:
    assert codes(write("rows.txt", "é\n\né\n\n".encode() + b"\xff\n")) == [None, None, "data-not-utf8"]


# encodings

CONTENT = {
    "rows.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS),
    "rows.json": json.dumps(ROWS, ensure_ascii=False),
    "rows.csv": f"question,answer\n{ROWS[0]['question']},4\n{ROWS[1]['question']},{ROWS[1]['answer']}\n",
}


@pytest.mark.parametrize("name", CONTENT)
@pytest.mark.parametrize(
    ("encoding", "id"),
    [("utf-8-sig", "data-byte-order-mark"), ("utf-16", "data-not-utf8"), ("utf-32", "data-not-utf8")],
)
def test_byte_order_marks_are_obeyed_and_said(write, name: str, encoding: str, id: str) -> None:
    path = write(name, CONTENT[name].encode(encoding))
    assert values(path) == ROWS
    (finding,) = source(path).findings
    assert (finding.id, finding.severity) == (id, "warning")


@pytest.mark.parametrize("mark", ["utf-16-le", "utf-16-be", "utf-32-be"])
def test_either_byte_order(write, mark: str) -> None:
    assert values(write("rows.json", ("\ufeff" + CONTENT["rows.json"]).encode(mark))) == ROWS


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("gb18030", '{"question": "世界上最高的山是什么？", "answer": "珠穆朗玛峰，高度约为8848米。"}'),
        ("big5", '{"question": "世界上最高的山是什麼？", "answer": "聖母峰，高度約為8848公尺。"}'),
        ("cp932", '{"question": "日本で一番高い山は何ですか？", "answer": "富士山です。"}'),
        ("utf-16-le", '{"question": "How much is 2+2?", "answer": "4"}'),
    ],
)
def test_another_encoding_is_guessed_and_the_command_converts(write, encoding: str, text: str) -> None:
    content = "{}\n" + f"{text}\n" * 40
    path = write("my rows' $.jsonl", content.encode(encoding))
    finding = problem(path, id="data-not-utf8")
    assert dict(finding.details)["looks like"].replace("_", "-") == encoding
    python, *words = shlex.split(finding.fix[0])
    assert python == "python"
    assert run_python(*words).returncode == 0
    assert path.with_name(f"utf8-{path.name}").read_bytes() == content.encode()


def test_the_first_wrong_byte_is_named(write) -> None:
    finding = problem(write("rows.jsonl", b'{"a": 1}\n{"a": "\xe9t\xe9"}\n'), id="data-not-utf8")
    assert dict(finding.details)["first in"] == "line 2, byte 8 (0xE9)"


def test_a_character_across_the_end_of_the_sample_is_whole(write, monkeypatch) -> None:
    monkeypatch.setattr(sources, "SAMPLE_BYTES", 8)
    assert values(write("rows.jsonl", '{"a": "你"}')) == [{"a": "你"}]


def test_utf16_that_breaks_off_is_said_to_be_unread(write) -> None:
    path = write("rows.jsonl", '{"a": 1}\n{"a": 2}'.encode("utf-16")[:-1])
    assert codes(path)[-1] == "data-not-utf8"


# what is given


def test_folders_patterns_and_several_files(write, tmp_path) -> None:
    write("data/b.jsonl", "{}")
    write("data/deep/a.csv", "q,a\n1,2\n")
    for name in ("README.txt", "dataset_info.json", "tokenizer_config.json", ".hidden.jsonl", ".git/x.json", "x.py"):
        write(f"data/{name}", '{"a": 1}')
    assert [file.name for file in sources.find_files([f"{tmp_path}/data/"])] == [
        f"{tmp_path}/data/b.jsonl",
        f"{tmp_path}/data/deep/a.csv",
    ]
    assert [file.path.name for file in sources.find_files([f"{tmp_path}/data/*.jsonl"])] == ["b.jsonl"]
    assert [file.path.name for file in sources.find_files([f"{tmp_path}/**/*.csv", f"{tmp_path}/data/b.jsonl"])] == [
        "a.csv",
        "b.jsonl",
    ]
    assert source(tmp_path / "data" / "dataset_info.json").kind == "json lines"


def test_the_pattern_may_be_relative(write, tmp_path, monkeypatch) -> None:
    write("b.jsonl", "{}")
    monkeypatch.chdir(tmp_path)
    assert [file.name for file in sources.find_files(["*.jsonl"])] == ["b.jsonl"]


def test_all_problems_are_told_at_once(write, tmp_path) -> None:
    write("data/empty.csv", "")
    write("data/book.docx", b"PK\x03\x04")
    found = problems(tmp_path / "no.jsonl", tmp_path / "data", tmp_path / "data" / "book.docx")
    assert [finding.id for finding in found] == ["data-file-missing", "data-file-empty", "data-file-unknown"]


def test_a_missing_file_has_near_names(write, tmp_path) -> None:
    write("identity.jsonl", "{}")
    finding = problem(tmp_path / "identiti.jsonl", id="data-file-missing")
    assert "Did you mean identity.jsonl?" in finding.what
    assert f"--data {tmp_path}/identity.jsonl" in finding.fix


@pytest.mark.parametrize("name", ["no/folder/a.jsonl", "a**b", "x\0y.jsonl", "no/*.jsonl", "no/such/place", "name", ""])
def test_names_of_nothing(tmp_path, monkeypatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    problem(name, id="data-file-missing")


def test_a_folder_without_data(write, tmp_path) -> None:
    write("README.md", "# Data")
    assert "README.md" in str(problem(tmp_path, id="data-file-missing").details)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", ""),
        ("b.json", " \n"),
        ("c.json", "[ ]"),
        ("d.csv", "q,a\n"),
        ("e.txt", "\n\n"),
        ("f", b"\xef\xbb\xbf\n"),
    ],
)
def test_empty_files(write, name: str, content: str | bytes) -> None:
    if name == "f":
        name = "f.jsonl"
    problem(write(name, content), id="data-file-empty")


def test_a_table_without_rows(tmp_path) -> None:
    pq.write_table(TABLE.slice(0, 0), tmp_path / "rows.parquet")
    problem(tmp_path / "rows.parquet", id="data-file-empty")


@pytest.mark.parametrize(
    ("name", "content", "fix"),
    [
        ("rows.csv", b"\xd0\xcf\x11\xe0...", "give it its own ending"),
        ("rows.docx", b"PK\x03\x04...", "save its text as .txt"),
        ("rows.jsonl.gz", b"\x1f\x8b...", "unpack it"),
        ("rows.jsonl", b"\x1f\x8b...", "unpack it"),
        ("rows.pdf", b"%PDF-1.7", ".txt"),
        ("rows.jsonl", b"\x89PNG\r\n", "rows of text"),
        ("rows.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("rows.jsonl", b"<!DOCTYPE html><html>", "download the file itself"),
        ("rows", b"some words", ".txt"),
    ],
)
def test_files_that_are_no_data(write, name: str, content: bytes, fix: str) -> None:
    assert fix in str(problem(write(name, content), id="data-file-unknown").fix)


@pytest.mark.parametrize(
    ("name", "content"), [("a.parquet", b"PAR1 cut"), ("b.arrow", b"ARROW1 cut"), ("c.arrow", b"\xff" * 4 + b"cut")]
)
def test_broken_tables(write, name: str, content: bytes) -> None:
    problem(write(name, content), id="data-file-unreadable")


def test_a_file_that_may_not_be_read(write, monkeypatch) -> None:
    path = write("rows.jsonl", "{}")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert problem(path, id="data-file-unreadable").why == "Permission denied"


def test_a_file_that_goes_away_is_no_traceback(write) -> None:
    path = write("rows.jsonl", "{}")
    found = source(path)
    path.unlink()
    assert [raw.value.code for raw in sources.read_rows(found)] == ["data-file-unreadable"]


def test_the_hash_is_of_the_bytes(write) -> None:
    assert sources.sha256(source(write("rows.jsonl", "{}"))) == (
        "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    )


# memory


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.txt"])
def test_rows_are_read_as_they_are_asked_for(write, name: str) -> None:
    count, text = 40_000, "x" * 400
    row = json.dumps({"q": text, "a": "1"})
    content = {
        "rows.jsonl": f"{row}\n" * count,
        "rows.json": "[" + f"{row},\n" * (count - 1) + row + "]",
        "rows.csv": "q,a\n" + f"{text},1\n" * count,
        "rows.txt": f"{text}\n" * count,
    }
    found = source(write(name, content.pop(name)))
    content.clear()
    told: list[int] = []
    some = sources.read_rows(found, told.append)
    list(islice(some, 3))
    assert 0 < told[-1] < found.size_bytes / 3
    tracemalloc.start()
    assert sum(1 for _ in some) == count - 3
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < found.size_bytes / 3
    assert told[-1] == found.size_bytes


# anything at all


def count_rows(path: Path) -> None:
    """Only rows, RowErrors and KitErrors come out, and the rows are numbered."""
    try:
        found = source(path)
    except KitError:
        return
    numbers = []
    for raw in sources.read_rows(found):
        numbers.append(raw.number)
        assert not isinstance(raw.value, Exception) or isinstance(raw.value, RowError)
        if isinstance(raw.value, RowError):
            assert raw.value.code.startswith("data-")
            str(raw.value).encode()
    assert numbers == list(range(1, len(numbers) + 1))
    assert numbers


JSON_PIECES = ["{", "}", "[", "]", '"', ",", ":", "\\u", "1", "NaN", '{"a": 1}', '{"data": [{"a": 1}, {"a": 2}]}']
TABLE_PIECES = ["\n", "\r", "\t", ";", " ", "\0", "q,a\n", '"x\ny"', "你", "\ufeff"]
BROKEN_PIECES = [b"\xff", b"\xe4\xbd", b"\xff\xfe"]
PIECES = st.sampled_from([*map(str.encode, JSON_PIECES + TABLE_PIECES), *BROKEN_PIECES])
TEXTS = st.binary(max_size=60) | st.lists(PIECES, max_size=25).map(b"".join)


@ANYTHING_ELSE
@given(name=st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a"]), content=TEXTS)
@example(name="a.json", content=b"\xff\xfe\x00\xd8[")
@example(name="a.csv", content=b"a,b\n" + b"\xff\n")
def test_any_bytes_in_a_text_file(tmp_path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    count_rows(path)


def _tables() -> list[bytes]:
    sinks = [pa.BufferOutputStream() for _ in range(3)]
    pq.write_table(TABLE, sinks[0])
    for sink, new in zip(sinks[1:], (pa.ipc.new_file, pa.ipc.new_stream), strict=True):
        with new(sink, TABLE.schema) as writer:
            writer.write_table(TABLE)
    return [sink.getvalue().to_pybytes() for sink in sinks]


def test_a_table_that_says_it_is_empty_and_is_not(tmp_path: Path) -> None:
    """One wrong byte of its end: how far it is read is counted against the number of rows that stands there."""
    whole = next(table for table in _tables() if table.startswith(b"PAR1"))
    path, found = tmp_path / "x.parquet", 0
    for place in range(4, len(whole) - 8):
        content = bytearray(whole)
        content[place] = 0
        path.write_bytes(content)
        try:
            file = pq.ParquetFile(path)
            is_meant = file.metadata.num_rows == 0 and sum(map(len, file.iter_batches()))
        except (OSError, ValueError):
            continue
        if is_meant:
            found += 1
            assert len(rows(path)) > 0
    assert found


@ANYTHING_ELSE
@given(whole=st.sampled_from(_tables()), data=st.data())
def test_a_table_with_any_bytes_changed_or_cut(tmp_path, whole: bytes, data) -> None:
    content = bytearray(whole)
    for place in data.draw(st.lists(st.integers(4, len(whole) - 1), max_size=3)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "rows.parquet"
    path.write_bytes(content[: data.draw(st.sampled_from([len(whole), len(whole) // 2, len(whole) - 1]))])
    count_rows(path)


@ANYTHING_ELSE
@given(content=st.lists(st.recursive(st.none() | st.text() | st.floats(allow_nan=False), st.lists, max_leaves=5)))
def test_any_json_comes_back_from_lines_and_list(tmp_path, content: list) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"row": row} for row in content] or [{}]), encoding="utf-8")
    as_list = values(path)
    path.write_text("".join(json.dumps(row) + "\n" for row in as_list), encoding="utf-8")
    assert values(path) == as_list == ([{"row": row} for row in content] or [{}])
