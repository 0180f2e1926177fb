"""The tool that looks at pictures: which ones it takes, and what the model is asked."""

from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path

import PIL.Image
import pytest

from models.backend import Backend, ModelInfo, ModelRequest, Unavailable
from models.messages import Image, Message, Text
from models.scripted import Script, Scripted
from tools import Session, Toolbox
from tools.vision import LARGEST, Vision

pytestmark = pytest.mark.anyio

EYES = ModelInfo("scripted", "scripted", capabilities=frozenset({"chat", "vision"}))


def drawn(form: str) -> bytes:
    file = BytesIO()
    PIL.Image.new("RGB", (2, 2), "red").save(file, form)
    return file.getvalue()


async def look(backend: Backend | None, session: Session, image: str, question: str = "What is it?") -> str:
    async def find() -> tuple[Backend, ModelInfo] | None:
        return (backend, EYES) if backend else None

    return (await Toolbox([Vision(find)]).run("analyze_image", {"image": image, "question": question}, session)).text


def asked(image: Image) -> list[ModelRequest]:
    return [ModelRequest("scripted", (Message("user", (image, Text("What is it?"))),))]


@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "gif"])
async def test_a_file_of_the_session_is_looked_at(tmp_path: Path, form: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes(drawn(form))
    backend = Scripted([Script(text=" A red square. ", thought="Hm.")])
    assert await look(backend, Session(tmp_path), "in/a.txt") == "A red square."
    assert backend.asked == asked(Image(b64encode(drawn(form)).decode(), f"image/{form}"))


async def test_a_picture_of_the_conversation_is_looked_at(tmp_path: Path) -> None:
    pictures = tuple(Image(b64encode(drawn(form)).decode(), f"image/{form}") for form in ("png", "gif"))
    backend = Scripted([Script(text="Red.")])
    session = Session(tmp_path, images=pictures)
    assert await look(backend, session, "Image 2") == "Red."
    assert backend.asked == asked(pictures[1])
    assert b64decode(pictures[1].data)[:3] == b"GIF"
    assert await look(backend, session, "image 3") == "Error: There is no image 3; the conversation has 2 pictures."
    assert await look(backend, session, "image 0") == "Error: There is no image 0; the conversation has 2 pictures."


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("none.png", "There is no file 'none.png' in the working folder."),
        ("../secret.png", "'../secret.png' is not the name of a file in the working folder."),
        ("link.png", "'link.png' leads over a link or a file, which is not followed."),
        ("fake.png", "'fake.png' is not a PNG, JPEG, WebP or GIF picture."),
        ("large.png", f"'large.png' is larger than {LARGEST:,} bytes. Make it smaller first."),
    ],
)
async def test_what_is_no_picture_of_the_session(tmp_path: Path, name: str, error: str) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(drawn("png"))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "fake.png").write_text("<svg/>")
    with (folder / "large.png").open("wb") as file:
        file.write(drawn("png"))
        file.truncate(LARGEST + 1)
    backend = Scripted()
    assert await look(backend, Session(folder), name) == f"Error: {error}"
    assert backend.asked == []


async def test_without_a_model_that_sees_the_setting_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(drawn("png"))
    assert await look(None, Session(tmp_path), "a.png") == (
        "Error: No model here can see pictures (the setting VISION_MODEL names one). Do without, and say so."
    )


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (Script(error=Unavailable("It sleeps.")), "scripted could not look at the picture: It sleeps."),
        (Script(text="  "), "scripted gave no answer about the picture. Ask again, in other words."),
    ],
)
async def test_a_model_that_fails(tmp_path: Path, script: Script, error: str) -> None:
    (tmp_path / "a.png").write_bytes(drawn("png"))
    assert await look(Scripted([script]), Session(tmp_path), "a.png") == f"Error: {error}"
