"""Passwords are hashed off the event loop, a few at once."""

import asyncio

import pytest
from passlib.context import CryptContext  # type: ignore[import-untyped]

from auth.errors import InvalidField, TooManyAttempts
from auth.passwords import Checked, Passwords

pytestmark = pytest.mark.anyio


async def test_a_password_belongs_to_its_hash_alone() -> None:
    passwords = Passwords()
    hashed = await passwords.hash("pässword")
    assert hashed.startswith("$argon2id$")
    checks = [await passwords.check(each, hashed) for each in ("pässword", "pa\u0308ssword", "password", "")]
    assert checks == [Checked(True), Checked(True), Checked(False), Checked(False)]


async def test_without_a_hash_nothing_fits() -> None:
    assert await Passwords().check("anything at all", None) == Checked(False)


@pytest.mark.parametrize("password", ["", "1234567", "a" * 1025])
async def test_a_password_has_eight_to_1024_characters(password: str) -> None:
    with pytest.raises(InvalidField) as caught:
        await Passwords().hash(password)
    assert (caught.value.status, caught.value.param) == (400, "password")


@pytest.mark.parametrize("password", ["1" * 8, "a" * 1024, "\x00" * 8, "😀" * 8])
async def test_any_characters_will_do(password: str) -> None:
    passwords = Passwords()
    assert await passwords.check(password, await passwords.hash(password)) == Checked(True)


async def test_a_hash_with_weak_parameters_is_made_anew() -> None:
    weak = CryptContext(schemes=["argon2"], argon2__time_cost=1, argon2__memory_cost=1024).hash("password")
    checked = await Passwords().check("password", weak)
    assert checked.ok
    assert checked.better_hash is not None
    assert await Passwords().check("password", checked.better_hash) == Checked(True)


async def test_a_flood_is_turned_away_and_the_loop_goes_on() -> None:
    passwords = Passwords(at_once=1, waiting=2)
    work = [asyncio.ensure_future(passwords.hash("password")) for _ in range(5)]
    turns = 0
    while not all(task.done() for task in work):
        await asyncio.sleep(0.001)
        turns += 1
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [str] * 3 + [TooManyAttempts] * 2
    assert turns > 20
