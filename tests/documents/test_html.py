"""HTML is read as a browser shows it."""

import pytest

from bge_integrations.documents import read_file


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<header>Acme</header><main>Prices</main><footer>Imprint</footer>", "Acme\n\nPrices\n\nImprint"),
        ("<details><summary>More</summary>Hidden</details>", "More\n\nHidden"),
        ("<address>A</address><address>B</address>", "A\n\nB"),
        ("<aside>A</aside><search>B</search><hgroup><h1>C</h1><p>D</p></hgroup>", "A\n\nB\n\n# C\n\nD"),
        ("<fieldset><legend>A</legend>B</fieldset><form>C</form>D", "A\n\nB\n\nC\n\nD"),
        ("<figure>A<figcaption>B</figcaption></figure>C", "A\n\nB\n\nC"),
        ("<select><option>A<option>B</select><button>C</button><button>D</button>", "A\n\nB\n\nC\n\nD"),
        ("<menu><li>A<li>B</menu><center>C</center>", "* A\n* B\n\nC"),
        ("<b><div>A</div></b>B<a href='x'><div>C</div></a>D", "A\n\nB\n\nC\n\nD"),
        ("A<nav>Home</nav>B<div></div>C", "A  \nB  \nC"),
        ("<p>A</p><div></div><p>B</p>", "A\n\nB"),
        ("<span>one</span><span>word</span>", "oneword"),
        ("<label>Name<input></label><label>Age<input></label>", "Name  \nAge"),
        ("<meter>5</meter><progress>50%</progress>", "5\n\n50%"),
        ("<table><tr><td>A<table><tr><td>B<td>C</table><td>D</table>", "A\n\n|  |  |\n| --- | --- |\n| B | C |\n\nD"),
    ],
)
def test_every_block_is_on_its_own(tmp_path, html, text):
    (tmp_path / "a.html").write_text(html)
    assert read_file(tmp_path / "a.html")[1] == {None: text}


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<ul><li>One<li>Two</ul>", "* One\n* Two"),
        ("<ol><li>One<ul><li>A<li>B</ul><li>Two</ol>", "1. One\n   * A\n   * B\n2. Two"),
        (
            "<table><tr><th>Animal<th>Food<tr><td>Panda<td>bamboo</table>",
            "| Animal | Food |\n| --- | --- |\n| Panda | bamboo |",
        ),
        ("<table><thead><tr><th>A<tbody><tr><td>1<tr><td>2</table>", "| A |\n| --- |\n| 1 |\n| 2 |"),
        (
            "<table><thead><tr><th>A<tfoot><tr><td>3<tbody><tr><td>1<tbody><tr><td>2</table>",
            "| A |\n| --- |\n| 1 |\n| 2 |\n| 3 |",
        ),
        ("<dl><dt>Owl<dd>a bird<dd>an animal</dl>", "Owl\n:   a bird\n:   an animal"),
        ("<p>One<p>Two<h2>Three</h2>Four", "One\n\nTwo\n\n## Three\n\nFour"),
        ("<html><body><p>In.</p></body><p>After.</p>", "In.\n\nAfter."),
        ("<html><body><p>In.</p></body></html><p>After.</p>And more.", "In.\n\nAfter.\n\nAnd more."),
    ],
)
def test_end_tags_may_be_missing(tmp_path, html, text):
    (tmp_path / "a.html").write_text(html)
    assert read_file(tmp_path / "a.html")[1] == {None: text}


@pytest.mark.parametrize(
    "text",
    ["Set max_length in my_config.yaml.", "2*3*4 = 24", "[x] a_b_c * d", "C:\\temp\\__init__.py", "a + b - c ~ d"],
)
def test_no_markdown_escapes(tmp_path, text):
    (tmp_path / "a.html").write_text(f"<p>{text}</p>")
    assert read_file(tmp_path / "a.html")[1] == {None: text}


@pytest.mark.parametrize(
    ("html", "title", "text"),
    [
        ("<title>Owls</title><p>A", "Owls", "A"),
        ("<svg><title>Icon</title><text>B</text></svg><p>A", "a", "A"),
        ("<p hidden>B</p><p>A</p><div hidden=''><p hidden>B</p></div>", "a", "A"),
        ("<p style='color: red; display:none'>B</p><p style='display: block'>A</p>", "a", "A"),
        ("<div hidden='until-found'>A</div><datalist><option>B</datalist>", "a", "A"),
        ("<ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp>字<rp>(</rp><rt>ji</rt><rp>)</rp></ruby>です", "a", "漢字です"),
        ("<noscript>Turn on scripts</noscript><p>A", "a", "A"),
        ("<video>B</video>A<iframe>B</iframe><canvas>B</canvas>", "a", "A"),
        ("<h2>A<a class=headerlink href=#a>¶</a></h2>Si&shy;l\u00adbe", "a", "## A\n\nSilbe"),
        ("<math><semantics><mi>x</mi><annotation>x</annotation></semantics></math>", "a", "x"),
        ("<ruby><rb>京<rt>jīng</ruby>A", "a", "京A"),
    ],
)
def test_only_what_a_reader_sees(tmp_path, html, title, text):
    (tmp_path / "a.html").write_bytes(html.encode())
    assert read_file(tmp_path / "a.html") == (title, {None: text})
