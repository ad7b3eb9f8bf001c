"""Workbooks of Excel and LibreOffice as data: cells as in a CSV file, rows by their number in the sheet."""

import json
import random
import struct
import zipfile
from html import escape
from pathlib import Path

import pytest

from kit import data
from kit.data.__main__ import main
from kit.data.rows import sources
from kit.options import Rows
from kit.support.errors import KitError, RowError

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
FORMATS = {"date": 1, "datetime": 2}  # index of the cell's style -> number formats 14 and 22 of the file below
HEADER = ["question", "answer"]


def cell(place: str, value: object) -> str:
    """A cell of a sheet: text, number, truth value, (kind, number) for dates, or None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return f'<c r="{place}" t="b"><v>{int(value)}</v></c>'
    if isinstance(value, int | float):
        return f'<c r="{place}"><v>{value}</v></c>'
    if isinstance(value, tuple):
        return f'<c r="{place}" s="{FORMATS[value[0]]}"><v>{value[1]}</v></c>'
    return f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{escape(value)}</t></is></c>'


def sheet(rows: dict[int, list]) -> str:
    """Rows by their number, cells from column A on."""
    lines = (
        f'<row r="{number}">{"".join(cell(f"{chr(65 + i)}{number}", value) for i, value in enumerate(cells))}</row>'
        for number, cells in rows.items()
    )
    return f'<worksheet xmlns="{MAIN}"><sheetData>{"".join(lines)}</sheetData></worksheet>'


def write_xlsx(path: Path, sheets: dict[str, str], hidden: tuple[str, ...] = ()) -> Path:
    """The smallest workbook with these sheets."""
    listed = "".join(
        f'<sheet name="{name}" sheetId="{i}" r:id="s{i}" state="{"hidden" if name in hidden else "visible"}"/>'
        for i, name in enumerate(sheets, start=1)
    )
    related = "".join(
        f'<Relationship Id="s{i}" Type="{OFFICE}/worksheet" Target="worksheets/sheet{i}.xml"/>'
        for i in range(1, len(sheets) + 1)
    )
    files = {
        "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types"/>',
        "_rels/.rels": f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r" '
        f'Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><sheets>{listed}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{PACKAGE}/relationships">{related}<Relationship Id="st" '
        f'Type="{OFFICE}/styles" Target="styles.xml"/></Relationships>',
        "xl/styles.xml": f'<styleSheet xmlns="{MAIN}"><cellXfs><xf numFmtId="0"/><xf numFmtId="14"/>'
        '<xf numFmtId="22"/></cellXfs></styleSheet>',
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        for i, text in enumerate(sheets.values(), start=1):
            archive.writestr(f"xl/worksheets/sheet{i}.xml", text)
    return path


def write_ods(path: Path, rows: list[list[str]]) -> Path:
    office, table, text = (f"urn:oasis:names:tc:opendocument:xmlns:{name}:1.0" for name in ("office", "table", "text"))
    cells = "".join(
        "<table:table-row>"
        + "".join(
            f'<table:table-cell office:value-type="string"><text:p>{escape(each)}</text:p></table:table-cell>'
            for each in row
        )
        + "</table:table-row>"
        for row in rows
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr(
            "content.xml",
            f'<office:document-content xmlns:office="{office}" xmlns:table="{table}" xmlns:text="{text}"><office:body>'
            f'<office:spreadsheet><table:table table:name="One">{cells}</table:table></office:spreadsheet>'
            "</office:body></office:document-content>",
        )
        archive.writestr(
            "META-INF/manifest.xml",
            '<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"/>',
        )
    return path


def protected() -> bytes:
    """What Excel writes for a workbook with a password, as far as a reader looks before it asks for one."""

    def entry(name: str, kind: int, child: int) -> bytes:
        return (
            name.encode("utf-16-le").ljust(64, b"\0")
            + struct.pack("<HBBIII", 2 * len(name) + 2, kind, 1, 0xFFFFFFFF, 0xFFFFFFFF, child)
            + bytes(36)
            + struct.pack("<IQ", 0xFFFFFFFE, 0)
        )

    head = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<5H6x", 0x3E, 3, 0xFFFE, 9, 6)
    head += struct.pack("<10I", 0, 1, 1, 0, 4096, 0xFFFFFFFE, 0, 0xFFFFFFFE, 0, 0) + b"\xff" * 432
    table = struct.pack("<II", 0xFFFFFFFD, 0xFFFFFFFE) + b"\xff" * 504
    return head + table + entry("Root Entry", 5, 1) + entry("EncryptedPackage", 2, 0xFFFFFFFF) + bytes(256)


def source(path: Path) -> sources.Source:
    (found,) = sources.find_files([str(path)])
    return found


def values(path: Path) -> list:
    return [raw.value for raw in sources.read_rows(source(path))]


def finding_on(path: Path):
    with pytest.raises(KitError) as error:
        sources.find_files([str(path)])
    (finding,) = error.value.findings
    assert finding.fix
    return finding


def test_cells_are_text_as_in_a_csv_file(tmp_path) -> None:
    cells = ["Wörter, \n<b>", 4, 0.1, True, ("date", 45000), ("datetime", 45000.5), None, 1e21, "  kept  "]
    names = [f"c{number}" for number in range(len(cells))]
    (row,) = values(write_xlsx(tmp_path / "a.xlsx", {"One": sheet({1: names, 2: cells})}))
    texts = ["Wörter, \n<b>", "4", "0.1", "TRUE", "2023-03-15", "2023-03-15 12:00:00", "", "1e+21", "  kept  "]
    assert list(row.values()) == texts


def test_rows_have_the_numbers_of_the_sheet_and_empty_ones_are_passed_over(tmp_path) -> None:
    rows = {3: [None, " question ", "answer"], 5: [None, "a", "b"], 6: [None, "", None], 9: [None, "c"]}
    path = write_xlsx(tmp_path / "a.xlsx", {"One": sheet(rows)})
    assert [(raw.number, raw.line, raw.value) for raw in sources.read_rows(source(path))] == [
        (1, 5, {"question": "a", "answer": "b"}),
        (2, 9, {"question": "c", "answer": ""}),
    ]


def test_json_in_cells_of_chat_columns(tmp_path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    path = write_xlsx(tmp_path / "a.xlsx", {"One": sheet({1: ["messages"], 2: [json.dumps(turns)], 3: ["[{"]})})
    good, bad = values(path)
    assert good == {"messages": turns}
    assert bad.code == "data-field-not-json"


def test_other_sheets_are_named(tmp_path) -> None:
    rows = sheet({1: HEADER, 2: ["a", "b"]})
    sheets = {"Secret": rows, "Empty": sheet({}), "Rows": rows, "More": rows}
    found = source(write_xlsx(tmp_path / "a.xlsx", sheets, hidden=("Secret",)))
    assert (found.kind, found.reason) == ("spreadsheet", "its ending; the rows are those of the sheet 'Rows'")
    (finding,) = found.findings
    assert (finding.id, finding.severity) == ("data-sheets-not-read", "warning")
    assert dict(finding.details) == {"not read": "More, Secret"}


def test_one_sheet_with_cells_needs_no_warning(tmp_path) -> None:
    sheets = {"Sheet1": sheet({1: HEADER, 2: ["a", "b"]}), "Sheet2": sheet({})}
    assert source(write_xlsx(tmp_path / "a.xlsx", sheets)).findings == ()


def test_an_open_document_and_a_wrong_ending(tmp_path) -> None:
    wanted = [{"question": "a", "answer": "b"}]
    assert values(write_ods(tmp_path / "a.ods", [HEADER, ["a", "b"]])) == wanted
    assert values(write_xlsx(tmp_path / "a.xls", {"One": sheet({1: HEADER, 2: ["a", "b"]})})) == wanted


@pytest.mark.parametrize("header", [["q", "q"], ["q", None, "r"], ["Title"]])
def test_a_header_must_name_every_column_that_holds_something(tmp_path, header: list) -> None:
    path = write_xlsx(tmp_path / "a.xlsx", {"One": sheet({1: header, 2: ["a", "b", "c"]})})
    assert finding_on(path).id == "data-csv-header"


@pytest.mark.parametrize("sheets", [{"One": sheet({})}, {"One": sheet({1: HEADER})}])
def test_workbooks_without_rows(tmp_path, sheets: dict) -> None:
    assert finding_on(write_xlsx(tmp_path / "a.xlsx", sheets)).id == "data-file-empty"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"PK\x03\x04...", "format"),
        (b"\xd0\xcf\x11\xe0" + bytes(600), ""),
        (b"question,answer\na,b\n", "format"),
        (protected(), "password"),
    ],
)
def test_broken_and_protected_workbooks(tmp_path, content: bytes, why: str) -> None:
    path = tmp_path / "a.xlsx"
    path.write_bytes(content)
    finding = finding_on(path)
    assert finding.id == "data-file-unreadable"
    assert why in finding.why
    assert "save it as CSV UTF-8" in str(finding.fix)


def test_a_web_page_that_is_called_a_workbook(tmp_path) -> None:
    (tmp_path / "a.xls").write_text("<html><table><tr><td>question</td></tr></table></html>")
    assert finding_on(tmp_path / "a.xls").id == "data-file-unknown"


def test_a_stray_cell_in_the_last_corner_does_not_end_the_run(tmp_path) -> None:
    rows = sheet({1: HEADER}).replace("</sheetData>", f'<row r="1048576">{cell("XFD1048576", "x")}</row></sheetData>')
    finding = finding_on(write_xlsx(tmp_path / "a.xlsx", {"One": rows}))
    assert finding.id == "data-file-unreadable"
    assert "stray cell" in finding.why


def test_any_bytes_in_a_workbook(tmp_path) -> None:
    """Rows, RowErrors and KitErrors come out of a workbook with bytes changed or cut, and nothing else."""
    whole = write_xlsx(tmp_path / "a.xlsx", {"One": sheet({1: HEADER, 2: ["a", "b"]})}).read_bytes()
    chance = random.Random(0)
    for _ in range(12):
        content = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            content[chance.randrange(4, len(content))] = chance.randrange(256)
        (tmp_path / "a.xlsx").write_bytes(content[: chance.choice([len(whole), len(whole) // 2])])
        try:
            assert all(isinstance(value, dict | RowError) for value in values(tmp_path / "a.xlsx"))
        except KitError:
            continue


def test_through_the_doors(tmp_path, tiny_chat, capsys) -> None:
    rows = {1: HEADER} | {number: [f"What is {number}?", number] for number in range(2, 22)} | {22: ["unanswered"]}
    path = write_xlsx(tmp_path / "book.xlsx", {"Rows": sheet(rows), "Notes": sheet({1: ["todo"]})})
    assert main([str(path)]) == 1
    out, err = capsys.readouterr()
    assert "spreadsheet" in out
    assert "book.xlsx:22 (row 21)" in err
    assert "data-sheets-not-read" in err
    (tmp_path / "~$book.xlsx").write_bytes(b"the lock of a workbook that is open")
    got = data.read(Rows(data=str(tmp_path), data_on_error="skip", held_out_rows=0), tiny_chat)
    assert (got.report.rows_trained, got.report.rows_left_out) == (20, {"data-answer-empty": 1})
    assert "2<|im_end|>" in tiny_chat.tokenizer.decode(got.train[0].ids, skip_special_tokens=False)
    assert main([str(path), "--fix", str(tmp_path / "clean.jsonl")]) == 1
    assert len((tmp_path / "clean.jsonl").read_text("utf-8").splitlines()) == 20
