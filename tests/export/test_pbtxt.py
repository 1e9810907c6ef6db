"""Protobuf's text format, as configuration files use it."""

from hp_export.pbtxt import Word, entries, to_text


def test_fields_blocks_lists_and_maps_are_written_in_their_order() -> None:
    message = {
        "name": 'a "b" \\ c',
        "kind": Word("KIND_CPU"),
        "dims": [3, 4],
        "on": True,
        "policy": {"latest": {"count": 1}},
        "input": [{"name": "x"}, {"name": "y"}],
        "files": entries({"8.6": "a.plan"}),
        "empty": {},
    }
    assert (
        to_text(message)
        == """\
name: "a \\"b\\" \\\\ c"
kind: KIND_CPU
dims: [3, 4]
on: true
policy {
  latest {
    count: 1
  }
}
input {
  name: "x"
}
input {
  name: "y"
}
files {
  key: "8.6"
  value: "a.plan"
}
empty {
}
"""
    )
