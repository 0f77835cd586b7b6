"""The page in a real browser: what people see, click and type, and that nothing in the data becomes markup."""

import json
import shutil

import numpy as np
import pytest

from tests import browser, helpers
from tests.look.conftest import FAILED, KEPT, KEYS, data_of, look

SHOWN = [key.decode("utf-8", "backslashreplace") for key in KEPT]
pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser.chromium(tmp_path_factory.mktemp("browser") / "profile") as page:
        yield page


@pytest.fixture
def opened(page, whole):
    """The complete page on a desktop; nothing may be logged or requested meanwhile."""
    return fresh(page, whole)


def fresh(page, path):
    page.messages.clear()
    page.requests.clear()
    page.screen(1280, 900)
    page.open(path)
    page.until("document.querySelector('canvas').dataset.ready === ''")
    return page


@pytest.fixture(autouse=True)
def _nothing_else(page):
    yield
    assert page.messages == []
    assert [url for url in page.requests if not url.startswith(("file://", "data:image/webp"))] == []
    assert page.evaluate("window.hacked === undefined")


def texts(page, selector):
    return page.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.textContent)")


def middle(page, selector):
    """Where an element is in the window, once it is in view."""
    return page.evaluate(
        f"""(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: "center"}});
        const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()"""
    )


def of_point(page, index):
    """Where a point of the map is in the window."""
    x, y = middle(page, "canvas")
    width, height, data = page.evaluate(
        "(() => { const c = document.querySelector('canvas'); return [c.clientWidth, c.clientHeight, data.map]; })()"
    )
    side = min(width, height) - 40
    px, py = (value / data["steps"] - 0.5 for value in data["points"][index])
    return x + px * side, y + py * side


def test_all_that_is_promised_is_there(opened):
    assert texts(opened, "h2")[:6] == ["What ran", "Failures", "Pictures", "Map", "Vectors", "Duplicates"]
    assert texts(opened, "nav a") == texts(opened, "main h2")
    assert "untrained" in texts(opened, "[role=alert]")[0]
    (row,) = opened.evaluate(
        "[...document.querySelectorAll('.failures tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    )
    assert row[:2] == ["not_image", "1"]
    assert "fetch it again" in row[2]
    assert row[3].startswith(KEYS[FAILED].decode())
    assert opened.evaluate("document.querySelectorAll('figure rect').length") > 1
    opened.until("[...document.images].every((image) => image.complete && image.naturalWidth)")
    width, height = opened.evaluate(
        "(() => { const i = document.querySelector('#pictures img'); return [i.clientWidth, i.clientHeight]; })()"
    )
    assert width == pytest.approx(2 * height, abs=2)  # the picture's own shape


def test_keys_are_text_whatever_they_hold(opened):
    assert (
        opened.evaluate("[...document.querySelectorAll('#pictures .picture')].map((e) => e.title)") == SHOWN
    )
    # The last part of two keys is the same, so the parts before it are shown, too.
    assert texts(opened, "#pictures .picture .name")[6:8] == ["photos/06.jpg", "photos/07.jpg"]
    assert opened.evaluate("document.querySelectorAll('script').length") == 2
    assert opened.evaluate("document.querySelectorAll('main b').length") == 0
    assert "<b>odd</b>" in texts(opened, ".legend .name")


def test_no_script_but_its_own_can_run(opened):
    opened.evaluate("document.body.append(element('script', {}, 'window.hacked = 1'))")
    assert opened.messages
    assert all("Content Security Policy" in message for message in opened.messages)
    opened.messages.clear()


def test_a_click_leads_to_the_neighbours_and_on(opened, folder):
    vectors = np.array([record["embedding"] for record in helpers.read_all(folder / "out")], np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = np.round(unit @ unit.T, 9)
    opened.click(*middle(opened, "#pictures [data-picture='6']"))
    opened.until("dialog.open")
    assert texts(opened, "dialog h2") == [SHOWN[6]]
    near = np.argsort(-cosines[6], kind="stable")
    near = [index for index in near if index != 6][:12]
    assert (
        opened.evaluate("[...dialog.querySelectorAll('.picture')].map((e) => Number(e.dataset.picture))")
        == near
    )
    shown = [float(text) for text in texts(opened, "dialog .cosine")]
    assert shown == pytest.approx(cosines[6][near], abs=0.0006)
    opened.click(*middle(opened, "dialog .picture"))
    opened.until(f"dialog.querySelector('h2').textContent === {SHOWN[near[0]]!r}")
    opened.evaluate("history.back()")
    opened.until(f"dialog.querySelector('h2').textContent === {SHOWN[6]!r}")
    opened.click(5, 5)
    opened.until("!dialog.open && location.hash === ''")


def test_closing_one_picture_does_not_close_the_next(opened):
    """The event that tells of the closing comes when the next one is asked for already."""
    for way in ("dialog.querySelector('[aria-label=Close]').click()", "dialog.close()"):
        opened.evaluate("open_picture(3)")
        opened.until("dialog.open")
        opened.evaluate(f"{way}; open_picture(4)")
        opened.until("dialog.querySelector('h2').textContent === data.keys[4] && dialog.open")
        assert opened.evaluate("location.hash") == "#picture-4"
        opened.press("Escape")
        opened.until("location.hash === ''")
        assert not opened.evaluate("dialog.open")


def test_the_keyboard_opens_turns_and_closes(opened):
    opened.evaluate("document.querySelector(\"#pictures [data-picture='7']\").focus()")
    opened.press("Enter")
    opened.until("dialog.open")
    for number in (8, 9):
        opened.press("ArrowRight")
        opened.until(
            f"location.hash === '#picture-{number}' && dialog.querySelector('h2').textContent === data.keys[{number}]"
        )
    opened.press("ArrowLeft")
    opened.until("dialog.querySelector('h2').textContent === data.keys[8]")
    opened.press("Escape")
    opened.until("location.hash === ''")
    assert not opened.evaluate("dialog.open")


def test_a_link_to_a_picture_opens_it(page, whole, bare):
    fresh(page, bare)
    page.open(whole, "#picture-3")
    assert page.evaluate("dialog.open")
    assert texts(page, "dialog h2") == [SHOWN[3]]
    page.evaluate("location.hash = 'picture-99999'")
    page.until("!dialog.open")


def test_the_map_shows_the_picture_under_the_pointer(opened):
    for index in (5, 17):
        opened.mouse("mouseMoved", *of_point(opened, index))
        opened.until(f"document.querySelector('.tip:not([hidden]) .key')?.textContent === data.keys[{index}]")
        assert opened.evaluate("document.querySelector('.tip img').naturalWidth") > 0
    opened.click(*of_point(opened, 17))
    opened.until("dialog.open")
    assert texts(opened, "dialog h2") == [SHOWN[17]]


def test_the_map_by_keyboard(opened):
    opened.evaluate("document.querySelector('canvas').focus()")
    tip = "document.querySelector('.tip:not([hidden]) .key').textContent"
    opened.press("ArrowRight")
    first = opened.evaluate(tip)
    opened.press("ArrowLeft")
    second = opened.evaluate(tip)
    assert first != second
    left, right = (opened.evaluate(f"data.map.points[{SHOWN.index(key)}][0]") for key in (second, first))
    assert left < right
    opened.press("+")
    opened.press("Enter")
    opened.until("dialog.open")
    assert texts(opened, "dialog h2") == [second]


def test_a_label_of_the_legend_dims_the_others(opened):
    assert texts(opened, ".legend .name") == ["even", "third", "<b>odd</b>"]  # 8, 8, and 7 of them
    pixels = "(() => { const c = document.querySelector('canvas'); return c.toDataURL(); })()"
    before = opened.evaluate(pixels)
    opened.click(*middle(opened, ".legend button"))
    opened.until("document.querySelector('.legend button').ariaPressed === 'true'")
    assert opened.evaluate(pixels) != before
    opened.click(*middle(opened, ".legend button"))
    opened.until("document.querySelector('.legend button').ariaPressed === 'false'")
    assert opened.evaluate(pixels) == before


def test_a_search_finds_keys_and_values(opened):
    for words, count in (("PHOTOS/1", 10), ("<script>window", 2), ("third", 8), ("nothing like it", 0)):
        opened.evaluate(
            f"{{ const i = document.querySelector('input'); i.value = {words!r}; i.dispatchEvent(new Event('input')); }}"
        )
        assert opened.evaluate("document.querySelectorAll('#pictures .picture').length") == count, words


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_texts_can_be_read(page, whole, dark):
    """Contrast as WCAG 2 asks for, in both colour schemes."""
    page.screen(1280, 900, dark)
    page.open(whole)
    colours = page.evaluate(
        """(() => { const s = getComputedStyle(document.documentElement);
        return Object.fromEntries(["ground", "raised", "text", "quiet", "accent", "warn-ground", "warn-text"].map((n) => {
          const e = document.createElement("i"); e.style.color = s.getPropertyValue("--" + n); document.body.append(e);
          const c = getComputedStyle(e).color; e.remove(); return [n, c.match(/\\d+/g).map(Number)]; })); })()"""
    )
    assert (sum(colours["ground"]) < 380) == dark
    pairs = [(text, ground) for text in ("text", "quiet", "accent") for ground in ("ground", "raised")]
    for text, ground in (*pairs, ("warn-text", "warn-ground")):
        light, low = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
        assert (light + 0.05) / (low + 0.05) >= 4.5, (text, ground)


def luminance(rgb):
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_a_phone_scrolls_one_way_only_and_its_taps_work(page, whole):
    page.screen(360, 740, touch=True)
    page.open(whole)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    small = page.evaluate(
        "[...document.querySelectorAll('main button, input')].filter((e) => e.getBoundingClientRect().height < 32).length"
    )
    assert small == 0
    page.evaluate("open_picture(4)")
    page.until("dialog.open")
    assert page.evaluate(
        "dialog.scrollWidth <= dialog.clientWidth && dialog.getBoundingClientRect().right <= 360"
    )


def test_without_pictures_keys_stand_in_their_place(page, bare):
    fresh(page, bare)
    assert texts(page, "#pictures .frame.empty .key") == SHOWN
    assert page.evaluate("document.images.length") == 0
    assert any("--input" in note for note in texts(page, ".note"))
    page.mouse("mouseMoved", *of_point(page, 5))
    page.until("document.querySelector('.tip:not([hidden]) .frame.empty')")


def test_exact_and_near_duplicates_are_shown(page, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "mine")
    fresh(page, look(tmp_path / "mine", "--threshold=0.2"))
    titles = "[...group.querySelectorAll('.picture')].map((picture) => picture.title)"
    groups = f"[...document.querySelectorAll('#duplicates .group')].map((group) => {titles})"
    exact, *near = page.evaluate(groups)
    assert exact == [SHOWN[0], SHOWN[19]]
    assert sum(map(len, near)) > 4


@pytest.mark.parametrize("count", [1, 2, 5])
def test_pages_of_few_pictures(page, tmp_path, count):
    helpers.write_tfrecord(tmp_path / "in" / "a.tfrecord", [helpers.image_example(i) for i in range(count)])
    helpers.job(f"--input={tmp_path}/in/*.tfrecord", output=tmp_path / "out")
    path = look(tmp_path)
    fresh(page, path)
    assert page.evaluate("document.querySelectorAll('#pictures .picture').length") == count
    assert data_of(path)["map"]["method"].startswith("PCA to 2 dimensions")
    page.evaluate("open_picture(0)")
    page.until("dialog.open")
    assert page.evaluate("dialog.querySelectorAll('.picture').length") == count - 1
