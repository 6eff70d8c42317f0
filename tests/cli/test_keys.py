"""`adapterkit keys`: it never makes a key file that the server refuses."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from adapterkit.errors import AdapterkitError
from adapterkit.serving.keys.api_keys import Caller, hash_key
from adapterkit.serving.keys.key_file import parse_keys
from helpers.command_line import CommandResult, assert_refused, run_command

FILE = Path("keys.yaml")


def key_of(result: CommandResult) -> str:
    assert result.code == 0, result.err
    return hash_key(result.err.split()[-1])


def callers() -> dict[str, Caller]:
    return parse_keys(FILE.read_text(), "keys.yaml")


def add(*arguments: str) -> str:
    return key_of(run_command("keys", "--file", FILE, *arguments))


def test_keys_are_added_to_a_file() -> None:
    first = add("acme", "--rows-per-second", "2.5", "--adapters", "acme/*", "--adapters", "a")
    second = add("acme", "--id", "ci", "--role", "publisher", "--expires", "2099-01-31")
    third = add("globex", "--admin")
    found = callers()
    assert list(found) == [first, second, third]
    assert found[first].tenant == found[second].tenant
    assert found[first].tenant.rows_per_second == 2.5
    assert found[first].tenant.adapters == ("acme/*", "a")
    assert (found[first].role, found[first].key_id) == ("user", first[7:15])
    assert (found[second].role, found[second].key_id) == ("publisher", "ci")
    assert str(found[second].expires) == "2099-01-31"
    assert (found[third].role, found[third].tenant.adapters) == ("admin", ("globex/*",))


def test_a_new_file_is_private_and_an_old_one_keeps_its_mode() -> None:
    add("acme")
    assert FILE.stat().st_mode & 0o777 == 0o600
    FILE.chmod(0o640)
    link = Path("link.yaml")
    link.symlink_to(FILE)
    key_of(run_command("keys", "globex", "--file", link))
    assert link.is_symlink()
    assert FILE.stat().st_mode & 0o777 == 0o640
    assert [caller.tenant.name for caller in callers().values()] == ["acme", "globex"]
    assert sorted(os.listdir()) == ["keys.yaml", "link.yaml"]


@pytest.mark.parametrize("form", ["yaml", "json", "one line"])
def test_a_file_of_version_0_1_0_is_extended(form: str) -> None:
    acme, ops = hash_key("a"), hash_key("o")
    content = {
        "acme": {"key": acme, "adapters": ["acme/*"], "rows_per_second": 50},
        "ops": {"key": ops, "adapters": ["*"], "admin": True},
    }
    lines = (
        f'# our tenants\nacme:\n  key: {acme}   # of 2026\n  adapters: ["acme/*"]\n'
        f"  rows_per_second: 50\nops: {{key: '{ops}', adapters: ['*'], admin: true}}"
    )
    FILE.write_text(
        {"yaml": lines, "json": json.dumps(content, indent=2), "one line": json.dumps(content)}[
            form
        ]
    )
    before = callers()
    new = [add("acme", "--id", "second"), add("ops"), add("initech")]
    after = callers()
    assert {key: after[key] for key in before} == before
    assert after.keys() == {*before, *new}
    assert [after[key].tenant.name for key in new] == ["acme", "ops", "initech"]
    if form == "yaml":
        assert "# our tenants" in FILE.read_text()
        assert "# of 2026" in FILE.read_text()


def test_appended_lines_are_a_valid_file(programs: Path) -> None:
    def append(tenant: str) -> int:
        with FILE.open("a") as file:
            command = [str(programs / "adapterkit"), "keys", tenant]
            return subprocess.run(command, stdout=file, stderr=subprocess.DEVNULL).returncode

    assert append("acme") == 0
    FILE.write_text(FILE.read_text().rstrip("\n"))  # as some editors do
    assert append("globex") == 0
    before = FILE.read_bytes()
    assert append("acme") == 2
    assert FILE.read_bytes() == before
    assert [caller.tenant.name for caller in callers().values()] == ["acme", "globex"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["acme", "--id", "ci"], "acme has a key ci already; choose another --id"),
        (["acme", "--adapters", "x/*"], "acme is there already, with its own adapters"),
        (["acme", "--rows-per-second", "7"], "acme is there already, with its own rows_per_sec"),
        (["new", "--role", "boss"], "expected one of user, publisher, admin"),
        (["new", "--role", "user", "--admin"], "--admin means --role admin"),
        (["new", "--expires", "tomorrow"], "expected a day such as"),
        (["new", "--id", "a b"], "new.keys.a b: expected an id"),
        (["new", "--rows-per-second", "0"], "more than 0"),
        (["new", "--rows-per-second", "nan"], "rows_per_second"),
        (["\udcff"], "not a tenant"),
        (["a: {b"], "not a tenant"),
        (["new", "--adapters", "\udcff"], "new"),
    ],
)
def test_what_is_not_valid_is_refused(arguments: list[str], words: str) -> None:
    add("acme", "--id", "ci")
    assert_refused("keys", *arguments, "--file", FILE, words=words)
    if "acme" not in arguments:
        assert_refused("keys", *arguments, words=words)


@pytest.mark.parametrize("content", ["acme: {key: x}", "- a", "{", "\ud800"])
def test_a_file_that_is_not_valid_is_not_changed(content: str) -> None:
    FILE.write_bytes(content.encode("utf-8", "surrogatepass"))
    assert_refused("keys", "new", "--file", FILE, words="keys.yaml")


@pytest.mark.parametrize("tenant", ["7", "0x1f", "1e5", "1_000", "null", "true", "tenant", "key"])
def test_every_name_of_a_tenant_is_written_so_that_it_is_read(tenant: str) -> None:
    add("first")
    FILE.write_text(FILE.read_text() + run_command("keys", "--", tenant).out)
    assert list(callers().values())[1].tenant.name == tenant
    add("--id", "ci", "--", tenant)
    assert [caller.tenant.name for caller in callers().values()] == ["first", tenant, tenant]


def test_the_hash_of_a_key_is_checked_when_the_server_starts() -> None:
    Path("store").mkdir()
    FILE.write_text("acme: {key: 'sha256:zz'}")
    with pytest.raises(AdapterkitError, match=r"acme\.key"):
        callers()
    assert_refused("serve", "store", "--keys", FILE, words="keys.yaml: acme.key: expected sha256:")
