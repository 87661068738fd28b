import base64
import hashlib
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from deepgsr_cli.errors import ShapeError, UsageError
from deepgsr_cli.reports.report import Report, ReportImage, ReportItem, fit_for_report, write_report

RED, GREEN, BLUE = (200, 30, 30), (30, 160, 60), (40, 60, 190)
NASTY = "scan[red] <script>alert(\"1\")</script> 'Ünïcode 図' &amp; {{ 7 * 7 }}.png"


def plain(colour, height=37, width=53):
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3)).copy()


def noise(*shape):
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


class Page(HTMLParser):
    """Elements with their attributes and direct text, as an HTML parser sees them."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])
        if tag not in ("meta", "link", "img"):
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open:
            self.open[-1][2] += data

    def all(self, tag):
        return [(attrs, text) for name, attrs, text in self.elements if name == tag]

    def text(self):
        return "\n".join(text for tag, _, text in self.elements if tag not in ("script", "style"))


def page(tmp_path, *items, **facts):
    path = tmp_path / "report.html"
    write_report(path, Report("Title", "denoise", list(items), **facts))
    return Page(path)


def decode(uri):
    head, data = uri.split(",", 1)
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_the_page_names_no_address_outside_itself(tmp_path):
    item = ReportItem("a.png", [ReportImage("In", noise(5, 7)), ReportImage("Out", noise(5, 7))])
    html = page(tmp_path, item)
    addresses = [
        value
        for _, attrs, _ in html.elements
        for name, value in attrs.items()
        if name in ("src", "href", "srcset", "action", "data", "poster")
    ]
    assert len(addresses) == 4  # icon, thumbnail, two images
    assert all(address.startswith("data:") for address in addresses)
    assert not re.search(r"https?:|url\(|@import|style=", (tmp_path / "report.html").read_text("utf-8"))


def test_the_security_policy_lets_only_the_pages_own_style_and_script_run(tmp_path):
    html = page(tmp_path)
    [policy] = [attrs["content"] for attrs, _ in html.all("meta") if "http-equiv" in attrs]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        [(_, text)] = html.all(tag)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy


@pytest.mark.parametrize("shape", [(37, 53), (53, 37, 3), (1, 1), (16, 16, 3)])
def test_embedded_images_are_the_pixels_given(tmp_path, shape):
    first, second = noise(*shape), 255 - noise(*shape)
    html = page(tmp_path, ReportItem("a", [ReportImage("In", first), ReportImage("Out", second)]))
    embedded = {attrs["alt"]: attrs for attrs, _ in html.all("img") if attrs["alt"]}
    for label, pixels in (("In", first), ("Out", second)):
        np.testing.assert_array_equal(decode(embedded[label]["src"]), pixels)
        assert (embedded[label]["height"], embedded[label]["width"]) == tuple(map(str, shape[:2]))


def test_text_from_the_run_is_shown_as_text(tmp_path):
    image = ReportImage(NASTY, noise(3, 3))
    html = page(
        tmp_path,
        ReportItem(NASTY, [image], {NASTY: NASTY}, note=NASTY),
        ReportItem("failed.png", error=NASTY),
        protocol={NASTY: NASTY},
        summary={"total" + NASTY: 1},
    )
    assert len(html.all("script")) == 1
    assert html.text().count(NASTY) == 7  # two names, heading, cell, dt, dd, total
    attributes = [
        attrs.get(name) for _, attrs, _ in html.elements for name in ("alt", "data-note", "data-error")
    ]
    assert attributes.count(NASTY) == 3


def test_a_failed_file_is_named_with_its_sentence_and_no_image(tmp_path):
    html = page(tmp_path, ReportItem("cut.png", error="cut.png: ends early; copy it again"))
    assert "Failed: cut.png: ends early; copy it again" in html.text()
    assert "1 failed" in html.text()
    assert html.all("img") == []


def test_a_column_has_one_number_of_digits_its_mean_included(tmp_path):
    values = [
        {"PSNR": 29.0, "SSIM": 0.8, "sigma": 25},
        {"PSNR": float("inf"), "SSIM": float("nan"), "sigma": 50},
    ]
    html = page(
        tmp_path,
        *(ReportItem("a", metrics=metrics) for metrics in values),
        summary={"PSNR": 29.128, "SSIM": 0.80006, "sigma": 37.0, "Total (s)": 2.5},
    )
    cells = [text for _, text in html.all("td")]
    assert cells == ["29.00", "0.8000", "25", "∞", "–", "50", "29.13", "0.8001", "37"]
    assert "Total (s): 2.50" in html.text()


def test_json_holds_the_facts_of_the_page(tmp_path):
    report = Report(
        "Title",
        "denoise",
        [
            ReportItem(
                NASTY,
                [ReportImage("In", noise(3, 5)), ReportImage("Out", noise(3, 5))],
                {"PSNR": np.float32(29.5), "same": float("inf"), "steps": np.int64(3), "method": "BM3D"},
                note="1:1 crop",
            ),
            ReportItem("cut.png", error="cut.png: ends early; copy it again"),
        ],
        {"seed": "0"},
        {"PSNR": 29.5},
    )
    path = tmp_path / "report.JSON"
    write_report(path, report)
    text = path.read_text(encoding="utf-8")
    assert '"steps": 3,' in text
    assert json.loads(text) == {
        "title": "Title",
        "task": "denoise",
        "protocol": {"seed": "0"},
        "summary": {"PSNR": 29.5},
        "items": [
            {
                "name": NASTY,
                "metrics": {"PSNR": 29.5, "same": "inf", "steps": 3, "method": "BM3D"},
                "note": "1:1 crop",
                "error": None,
                "images": [
                    {"label": "In", "width": 5, "height": 3},
                    {"label": "Out", "width": 5, "height": 3},
                ],
            },
            {
                "name": "cut.png",
                "metrics": {},
                "note": "",
                "error": "cut.png: ends early; copy it again",
                "images": [],
            },
        ],
    }


@pytest.mark.parametrize("suffix", [".html", ".json"])
def test_a_file_name_that_is_not_unicode_does_not_stop_the_report(tmp_path, suffix):
    path = tmp_path / f"report{suffix}"
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    write_report(path, Report("Title", "denoise", [ReportItem(name)]))
    text = path.read_text(encoding="utf-8")
    assert "caf\\udce9.png" in text
    if suffix == ".json":
        assert json.loads(text)["items"][0]["name"] == name


@pytest.mark.parametrize("name", ["report.pdf", "report"])
def test_another_ending_is_refused_and_nothing_is_written(tmp_path, name):
    with pytest.raises(UsageError, match=r"\.html or \.json"):
        write_report(tmp_path / name, Report("Title", "denoise", []))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "pixels", [np.zeros((3, 3), np.float32), noise(3, 3, 4), noise(3), noise(0, 3), noise(1, 3, 3, 3)]
)
def test_what_is_no_8_bit_picture_is_refused(pixels):
    with pytest.raises(ShapeError, match=r"Restored: .*uint8"):
        ReportImage("Restored", pixels)


def test_images_of_two_sizes_are_not_compared():
    first, second = noise(37, 53), noise(37, 52, 3)
    with pytest.raises(ShapeError, match=r"a\.png: images of 53 × 37 and 52 × 37 px"):
        ReportItem("a.png", [ReportImage("In", first), ReportImage("Out", second)])
    with pytest.raises(ShapeError, match="53 × 37 and 52 × 37 px"):
        fit_for_report(first, second, max_side=8)


def test_images_that_fit_are_kept_whole():
    first, second = noise(37, 53), noise(37, 53, 3)
    kept, note = fit_for_report(first, second, max_side=53)
    assert note == ""
    np.testing.assert_array_equal(kept[0], first)
    np.testing.assert_array_equal(kept[1], second)


@pytest.mark.parametrize("shape", [(37, 53), (11, 53), (53, 20)])
def test_the_note_says_where_the_crop_of_a_large_image_is(shape):
    first, second = noise(*shape), noise(*shape, 3)
    crops, note = fit_for_report(first, second, max_side=20)
    columns, rows, left, top, width, height = map(int, re.findall(r"\d+", note.removeprefix("1:1 ")))
    assert (height, width) == shape
    assert (rows, columns) == (min(20, height), min(20, width))
    assert abs(2 * left + columns - width) <= 1  # in the middle
    assert abs(2 * top + rows - height) <= 1
    for crop, whole in zip(crops, (first, second), strict=True):
        np.testing.assert_array_equal(crop, whole[top : top + rows, left : left + columns])


# In a browser. Solid colours tell which image is seen at a point of a screenshot.


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    selenium = pytest.importorskip("selenium.webdriver")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("needs Chromium and chromedriver")
    options = selenium.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for switch in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "force-color-profile=srgb",
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(f"--{switch}")
    chromium = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield chromium
    chromium.quit()


class Viewer:
    """The open page, as a reader sees and uses it."""

    def __init__(self, driver, path, width, height, density=1):
        metrics = {"width": width, "height": height, "deviceScaleFactor": density, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.get(path.as_uri())
        self.driver = driver

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def texts(self, selector):
        return [element.text for element in self.driver.find_elements("css selector", selector)]

    def stage(self):
        """What is on the stage, (H, W, 3), in screen pixels."""
        png = Image.open(io.BytesIO(self.find("#stage").screenshot_as_png))
        return np.asarray(png.convert("RGB")).astype(int)

    def comes_to(self, condition):
        """Whether a condition is met soon: what is decoded and drawn takes its time."""
        from selenium.common.exceptions import TimeoutException
        from selenium.webdriver.support.ui import WebDriverWait

        try:
            return WebDriverWait(self.driver, 60, poll_frequency=0.05).until(lambda _: condition())
        except TimeoutException:
            return False

    def sees(self, before, after, at):
        """Whether `before` is left and `after` right of the divider at this share of the image's width."""

        def seen():
            seen = self.stage()
            box = self.driver.execute_script(
                "const box = (e) => e.getBoundingClientRect(), image = document.querySelector('.layer img');"
                "return image && [box(image).left - box(stage).left, box(image).width]"
            )
            if box is None:
                return False
            left, width = box
            row = seen[len(seen) // 4]  # above the grip
            x = left + at * width
            near = [c for c in (x - 8, x + 8) if left < c < left + width]
            expected = [before if c < x else after for c in near]
            return len(near) > 0 and all(
                np.abs(row[round(c)] - e).max() <= 2 for c, e in zip(near, expected, strict=True)
            )

        return self.comes_to(seen)

    def press(self, *keys):
        self.find("body").send_keys(*keys)

    def actions(self):
        from selenium.webdriver.common.action_chains import ActionChains

        return ActionChains(self.driver, duration=20)


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Five items: three plain images, two plain images, a failure, one pixel, and noise."""

    def images(**pixels):
        return [ReportImage(label, image) for label, image in pixels.items()]

    three = images(In=plain(RED), Out=plain(GREEN), Reference=plain(BLUE))
    items = [
        ReportItem("b.png", three, {"PSNR": 31.5}, note="a note"),
        ReportItem("c.png", images(In=plain(BLUE), Out=plain(RED)), {"PSNR": 9.25}),
        ReportItem("d.png", error="d.png: ends early; copy it again"),
        ReportItem("a.png", images(In=plain(GREEN, 1, 1), Out=plain(BLUE, 1, 1)), {"PSNR": 100.0}),
        ReportItem("e.png", images(In=noise(97, 61), Out=noise(97, 61)), {"PSNR": 8}),
    ]
    path = tmp_path_factory.mktemp("report") / "colours [1] ü.html"
    write_report(path, Report("Title", "denoise", items, {"sha256": "0123456789abcdef" * 4}, {"PSNR": 37.2}))
    return path


@pytest.fixture
def viewer(chromium, colours):
    yield Viewer(chromium, colours, 1100, 700)
    assert chromium.get_log("browser") == []


def test_the_divider_parts_the_two_images_wherever_keys_move_it(viewer):
    from selenium.webdriver.common.keys import Keys

    assert viewer.sees(RED, GREEN, 0.5)
    viewer.press(*[Keys.ARROW_RIGHT] * 20)
    assert viewer.sees(RED, GREEN, 0.7)
    viewer.press(Keys.SHIFT + Keys.ARROW_LEFT * 6 + Keys.NULL)
    assert viewer.sees(RED, GREEN, 0.1)
    divider = viewer.find("#divider")
    assert (divider.aria_role, divider.get_attribute("aria-valuenow")) == ("slider", "10")
    divider.send_keys(Keys.HOME)
    assert viewer.sees(RED, GREEN, 0.0)
    divider.send_keys(Keys.END)
    assert viewer.sees(RED, GREEN, 1.0)


def test_the_divider_follows_the_mouse(viewer):
    assert viewer.sees(RED, GREEN, 0.5)
    width = viewer.find("#left-layer img").size["width"]
    viewer.actions().drag_and_drop_by_offset(viewer.find("#divider"), round(width / 4), 0).perform()
    assert viewer.sees(RED, GREEN, 0.75)
    stage = viewer.find("#stage")
    viewer.actions().move_to_element_with_offset(stage, -round(width / 4), 30).click().perform()
    assert viewer.sees(RED, GREEN, 0.25)


def test_any_two_images_can_be_compared_and_the_choice_is_kept(viewer):
    from selenium.webdriver.support.ui import Select

    Select(viewer.find("#right")).select_by_visible_text("Reference")
    assert viewer.sees(RED, BLUE, 0.5)
    Select(viewer.find("#left")).select_by_visible_text("Out")
    assert viewer.sees(GREEN, BLUE, 0.5)
    viewer.find("#next").click()  # has an "Out", but no "Reference"
    assert viewer.sees(RED, RED, 0.5)
    viewer.find("#previous").click()
    assert viewer.sees(GREEN, BLUE, 0.5)


def test_items_are_reached_by_click_key_and_button(viewer):
    from selenium.webdriver.common.keys import Keys

    assert (viewer.find("#name").text, viewer.find("#position").text) == ("b.png", "1 of 5")
    assert "a note" in viewer.find("#facts").text
    assert not viewer.find("#previous").is_enabled()
    viewer.find("tbody tr:nth-child(2)").click()
    assert viewer.sees(BLUE, RED, 0.5)
    assert viewer.find("#name").text == "c.png"
    viewer.press(Keys.ARROW_DOWN)
    assert viewer.find("#message").text == "d.png: ends early; copy it again"
    assert viewer.driver.find_elements("css selector", ".layer img") == []
    viewer.press(Keys.ARROW_DOWN)
    assert viewer.sees(GREEN, BLUE, 0.5)  # one pixel fills the stage
    viewer.find("#next").click()
    assert not viewer.find("#next").is_enabled()


def test_sorting_orders_by_value_leaves_failures_last_and_leads_the_keys(viewer):
    from selenium.webdriver.common.keys import Keys

    heading = viewer.find("thead th:nth-child(2) button")
    heading.click()
    assert viewer.texts(".name") == ["e.png", "c.png", "b.png", "a.png", "d.png"]
    assert viewer.find("#position").text == "3 of 5"
    viewer.press(Keys.ARROW_UP)
    assert viewer.find("#name").text == "c.png"
    heading.click()
    assert viewer.texts(".name") == ["a.png", "b.png", "c.png", "e.png", "d.png"]
    heading.click()
    assert viewer.texts(".name") == ["b.png", "c.png", "d.png", "a.png", "e.png"]
    viewer.find("thead th button").click()
    assert viewer.texts(".name") == ["a.png", "b.png", "c.png", "d.png", "e.png"]


@pytest.mark.parametrize(("density", "zoom"), [(1, 8), (2, 8), (1, 1)])
def test_zoomed_in_every_image_pixel_is_a_block_of_screen_pixels(chromium, colours, density, zoom):
    viewer = Viewer(chromium, colours, 1100, 700, density)
    for _ in range(4):
        viewer.find("#next").click()
    viewer.find(f"[data-zoom='{zoom}']").click()
    viewer.find("#divider").send_keys("\ue010")  # End: only the left image
    assert viewer.find(f"[data-zoom='{zoom}']").get_attribute("aria-pressed") == "true"
    blocks = noise(97, 61).repeat(zoom, 0).repeat(zoom, 1)

    def is_in_the_middle():
        stage = viewer.stage()[:, :, 0]
        # The image's middle is the stage's, up to rounding; the divider is far from it.
        (y, x), (v, u) = (np.array(array.shape) // 2 for array in (stage, blocks))
        patch = blocks[v : v + 5 * zoom, u : u + 5 * zoom]
        found = [
            np.array_equal(stage[y + dy : y + dy + 5 * zoom, x + dx : x + dx + 5 * zoom], patch)
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        ]
        return sum(found) == 1

    assert viewer.comes_to(is_in_the_middle)


def test_the_wheel_keeps_the_point_under_the_mouse_and_a_drag_moves_the_image(viewer):
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    def corner_and_scale():
        image, stage = viewer.find("#left-layer img").rect, viewer.find("#stage").rect
        return np.array([image["x"] - stage["x"], image["y"] - stage["y"]]), image["width"] / 53

    stage = viewer.find("#stage")
    centre = np.array([stage.size["width"] // 2, stage.size["height"] // 2])
    away = np.array([70, -40])
    assert viewer.sees(RED, GREEN, 0.5)
    corner, scale = corner_and_scale()
    point = (centre + away - corner) / scale
    viewer.actions().scroll_from_origin(ScrollOrigin.from_element(stage, 70, -40), 0, -240).perform()
    assert viewer.comes_to(lambda: corner_and_scale()[1] == pytest.approx(2 * scale, rel=0.01))
    zoomed_corner, zoomed_scale = corner_and_scale()
    np.testing.assert_allclose(zoomed_corner + point * zoomed_scale, centre + away, atol=2)

    viewer.actions().move_to_element_with_offset(stage, 90, 80).click_and_hold().move_by_offset(
        -33, 21
    ).release().perform()
    assert viewer.comes_to(lambda: np.allclose(corner_and_scale()[0] - zoomed_corner, [-33, 21], atol=1))
    viewer.press("0")
    assert viewer.comes_to(lambda: np.allclose(corner_and_scale()[0], corner, atol=1))


@pytest.mark.parametrize("width", [320, 420, 900])
def test_a_narrow_page_does_not_scroll_sideways(chromium, tmp_path, width):
    images = [ReportImage("In" * 30, plain(RED)), ReportImage("Out", plain(GREEN))]
    item = ReportItem("long" * 30, images, {f"Metric {k} (dB)": 20.5 for k in range(12)}, note="n" * 90)
    failed = ReportItem("cut.png", error="c" * 90)
    path = tmp_path / "report.html"
    write_report(path, Report("T" * 90, "denoise", [item, failed], {"sha256": "0" * 64}, {"T" * 90: 1}))
    viewer = Viewer(chromium, path, width, 800)
    assert viewer.sees(RED, GREEN, 0.5)
    assert viewer.driver.execute_script("return document.documentElement.scrollWidth") <= width


def test_a_report_of_nothing_opens_and_says_so(chromium, tmp_path):
    write_report(tmp_path / "empty.html", Report("Title", "denoise", []))
    viewer = Viewer(chromium, tmp_path / "empty.html", 1100, 700)
    viewer.press("4")
    assert viewer.find("#message").text == "No items in this run."
    assert chromium.get_log("browser") == []
