"""The server's page in headless Chromium: `make test-browser`; skipped without Chromium or playwright."""

import shutil
from pathlib import Path

import pytest
from servers import app_server

from bge_integrations.index import M3Index
from bge_integrations.scoring import hybrid_scores

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
KEY = "s3cret-key"
ATTACK = "<script>window.attacked = 1</script><img src=x onerror='window.attacked = 1'> bamboo & \"quotes\""
TEXTS = [
    "Giant pandas eat bamboo.",
    "Rome was not built in a day.",
    ATTACK,
    "Pandas sleep a lot.",
    "café 竹子 🐼 bamboo",
]


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    with M3Index.open(folder, "pocket") as index:
        index.add(TEXTS, ids=[str(i) for i in range(len(TEXTS))], metadatas=[{"source": ATTACK}] * len(TEXTS))
    with app_server(models=["pocket"], rerankers=["pocket"], indexes={"animals": str(folder)}) as served:
        yield served.url


@pytest.fixture
def open_page(browser):
    """Return a function that opens a server's page, fails on script errors, and records what is requested."""
    contexts = []

    def open_at(url, **settings):
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.failures, page.requested = [], []
        page.on("pageerror", lambda error: page.failures.append(str(error)))
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(url)
        return page

    yield open_at
    for context in contexts:
        assert [page.failures for page in context.pages] == [[]] * len(context.pages)
        context.close()


def search(page, query, source="/animals"):
    page.wait_for_selector(f"#source option[value='{source}']", state="attached")
    page.select_option("#source", source)
    page.fill("#query", query)
    page.press("#query", "Enter")
    page.wait_for_selector(".hit")
    return page.locator(".hit .text").all_inner_texts()


def set_weight(page, part, weight):
    page.locator(f"#weight-{part}").fill(str(weight))


@pytest.mark.parametrize("source", ["/animals", ""])
def test_hits_have_the_scores_of_the_library(server, open_page, source, pocket):
    page = open_page(server)
    page.wait_for_selector("#source option", state="attached")
    if not source:
        page.select_option("#source", "")
        page.fill("#texts", "\n".join(TEXTS))
    found = search(page, "What do pandas eat?", source)
    assert sorted(found) == sorted(TEXTS)
    query = pocket.encode(["What do pandas eat?"], kind="query", sparse=True, multi_vector=True)
    passages = pocket.encode(found, kind="passage", sparse=True, multi_vector=True)
    scores = hybrid_scores(query, passages)
    shown = page.locator(".hit").evaluate_all(
        "hits => hits.map(hit => [...hit.querySelectorAll('.number')].map(n => Number(n.textContent)))"
    )
    for i, (dense, sparse, multi_vector, _, total) in enumerate(shown):
        expected = [scores.dense[0, i], scores.sparse[0, i], scores.multi_vector[0, i], scores.hybrid[0, i]]
        assert [dense, sparse, multi_vector, total] == pytest.approx(expected, abs=2e-3)
    assert [row[-1] for row in shown] == sorted((row[-1] for row in shown), reverse=True)


def test_sliders_rank_again_without_a_request(server, open_page):
    page = open_page(server)
    search(page, "bamboo")
    before = len(page.requested)
    for part in ("dense", "multi_vector"):
        set_weight(page, part, 0)
    sparse = page.locator(".hit").evaluate_all(
        "hits => hits.map(hit => [...hit.querySelectorAll('.number')].map(n => Number(n.textContent)))"
    )
    assert [row[1] for row in sparse] == [row[-1] for row in sparse] == sorted((row[1] for row in sparse), reverse=True)
    set_weight(page, "sparse", 0)  # no weight at all
    assert page.locator(".hit").count() == len(TEXTS)
    assert len(page.requested) == before


def test_the_order_before_and_after_the_reranker(server, open_page, pocket_reranker):
    page = open_page(server)
    query = "What do pandas eat?"
    before = search(page, query)
    page.get_by_text("After reranking").click()
    after = page.locator(".hit .text").all_inner_texts()
    scores = dict(zip(TEXTS, pocket_reranker.score([(query, text) for text in TEXTS]).tolist(), strict=True))
    assert after == sorted(TEXTS, key=lambda text: -scores[text])
    page.get_by_text("Before reranking").click()
    assert page.locator(".hit .text").all_inner_texts() == before


def test_words_are_colored_and_matched(server, open_page, pocket):
    page = open_page(server)
    found = search(page, "panda bamboo")
    row = page.locator(".hit").nth(found.index(TEXTS[4]))
    row.get_by_role("button").press("Enter")
    row.locator("table").wait_for()
    assert row.locator(".tokens > span:last-child").all_inner_texts() == ["panda bamboo", TEXTS[4]]
    shared = row.locator(".token.shared").all_inner_texts()
    assert shared.count("bamboo") == 2
    headers = row.locator("tbody th").all_inner_texts()
    assert headers == [t.text for t in pocket.tokens(["panda bamboo"], kind="query")[0] if t.start is not None]
    assert row.locator("td.best").count() == len(headers)
    assert row.get_by_role("button").get_attribute("aria-expanded") == "true"
    row.get_by_role("button").press("Enter")
    assert not row.locator("table").is_visible()


def test_no_text_becomes_markup_and_nothing_else_is_loaded(server, open_page):
    page = open_page(server)
    search(page, ATTACK)
    for button in page.locator(".why").all():
        button.click()
    page.wait_for_selector("table")
    assert page.locator("#hits script, #hits img").count() == 0
    assert page.evaluate("() => window.attacked") is None
    assert all(url.startswith(server) for url in page.requested)


def test_the_page_works_with_the_keyboard_and_has_names(server, open_page):
    page = open_page(server)
    page.wait_for_selector("#source option", state="attached")
    page.keyboard.press("/")
    assert page.evaluate("() => document.activeElement.id") == "query"
    page.keyboard.type("bamboo")
    page.keyboard.press("Enter")
    page.wait_for_selector(".hit")
    page.locator("#weight-dense").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#out-dense").inner_text() == "0.9"
    unnamed = page.evaluate(
        "() => [...document.querySelectorAll('input, select, textarea, button')]"
        ".filter(e => !(e.labels && e.labels.length) && !e.textContent.trim()).map(e => e.outerHTML)"
    )
    assert unnamed == []
    assert page.locator("#status").get_attribute("role") == "status"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_the_page_is_readable_in_both_schemes_and_widths(server, open_page, scheme, width):
    page = open_page(server, color_scheme=scheme, viewport={"width": width, "height": 900})
    search(page, "bamboo")
    page.locator(".why").first.click()
    page.wait_for_selector("table")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    contrasts = page.evaluate(_CONTRASTS)
    assert min(contrasts.values()) >= 4.5, contrasts


#: The contrast of text and background by WCAG, for each kind of text.
_CONTRASTS = """() => {
  const rgb = (color) => color.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (color) => rgb(color).map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const found = {};
  for (const selector of ["h1", "#about", "label", "#status", ".rank", ".text", ".meta", ".number", ".why", ".note"]) {
    const ink = light(getComputedStyle(document.querySelector(selector)).color);
    found[selector] = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  }
  return found;
}"""


def test_the_key_is_asked_for_and_stays_in_the_tab(open_page):
    with app_server(models=["pocket"], api_keys=[KEY]) as served:
        page = open_page(served.url)
        page.wait_for_selector("#status.error")
        page.fill("#key", KEY)
        page.press("#key", "Enter")
        page.wait_for_selector("#source option", state="attached")
        page.fill("#texts", "bamboo")
        page.press("#query", "Enter")
        page.wait_for_selector(".hit")
        assert page.locator("#order").is_hidden()  # there is no reranker
        stored = page.evaluate("() => [JSON.stringify(localStorage), document.cookie, location.href]")
        assert KEY not in "".join(stored)
        page.reload()
        page.wait_for_selector("#source option", state="attached")
        assert not any(KEY in request for request in page.requested)


def test_errors_are_shown(server, open_page):
    page = open_page(server)
    page.wait_for_selector("#source option", state="attached")
    page.select_option("#source", "")
    page.fill("#texts", " \n ")
    page.press("#query", "Enter")
    page.wait_for_selector("#status.error")
    page.route("**/v1/m3", lambda route: route.abort())
    page.fill("#texts", "bamboo")
    page.press("#query", "Enter")
    page.get_by_text("can't be reached").wait_for()


def test_the_page_is_one_file():
    text = (Path(__file__).parents[2] / "bge_integrations" / "serving" / "page.html").read_text("utf-8")
    assert "innerHTML" not in text
    assert "://" not in text
