"""Readers of the Debian, Python and Perl questions, on pages of their formats with text invented here."""

import sys

import pytest

from lattice_jax.corpus.pairs import Pair, list_pairs, load_pairs
from lattice_jax.corpus.readers.perlfaq import plain_text
from lattice_jax.errors import InputError

FAQ = "usr/share/doc/debian/FAQ"
HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n<html xmlns="http://www.w3.org/1999/xhtml"><body>'


def docbook(number, anchor, title, content, level=2):
    """A section as the DocBook stylesheets write it."""
    heading = f'<h{level} class="title"><a id="{anchor}"></a>{number}.\u00a0{title}</h{level}>'
    return f'<div class="section"><div class="titlepage"><div><div>{heading}</div></div></div>{content}</div>'


def debian_pages():
    inner = docbook("1.2.1", "ink", "Which ink?", "<p>\nBlue.\n</p>", level=3)
    english = [
        docbook(
            "1.1", "what", "What is <em>this</em>?", "<p>\nA tool,\n<code>pen</code>.  Write &lt;here&gt;:\n</p><p>So.</p>"
        ),
        docbook(
            "1.2", "how", "How do I write?", "<p>Run</p><pre>pen --ink</pre><p>then</p><pre>a\nb</pre><p>stop.</p>" + inner
        ),
        docbook("1.3", "list", "What else?", "Lead<p>in</p>to<ul><li>One</li><li>Two</li></ul>"),
    ]
    german = [
        docbook("1.1", "what", "Was ist das?", "<p>Ein Werkzeug.</p>"),
        docbook(
            "1.2", "how", "How do I write?", "<p>Run</p><pre>pen --ink</pre><p>then</p><pre>a\nb</pre><p>stop.</p>" + inner
        ),
    ]
    chinese = [
        docbook(
            "1.1", "what", "\u8fd9\u662f\u4ec0\u4e48\uff1f", "<p>\n\u4e00\u79cd\n\u5de5\u5177\u3002\n</p><p>\u597d\u3002</p>"
        )
    ]
    footer = '<div class="navfooter">Next: nothing</div></body></html>'
    return {
        f"{FAQ}/first.en.html": HEAD + "".join(english[:2]) + footer,
        f"{FAQ}/second.en.html": HEAD + english[2] + docbook("2", "only", "A heading alone", "") + footer,
        f"{FAQ}/first.html": "a link that is another name of first.en.html",
        f"{FAQ}/de/first.de.html": HEAD + "".join(german) + footer,
        f"{FAQ}/zh-cn/first.zh-cn.html": HEAD + "".join(chinese) + footer,
    }


def test_debian_sections_give_their_own_prose(install_debian):
    install_debian(debian_pages())
    listing = list_pairs("debian-faq")
    assert listing.pairs == (
        Pair("What is this?", "A tool, pen. Write <here>: So."),
        Pair("How do I write?", "Run pen --ink then stop."),
        Pair("Which ink?", "Blue."),
        Pair("What else?", "Lead in to One Two"),
    )
    assert listing.left_out == {"entries without question or answer": 1}
    assert load_pairs("debian-faq:en") == listing.pairs


def test_debian_languages_read_alone(install_debian):
    install_debian(debian_pages())
    assert [pair.question for pair in load_pairs("debian-faq:de")] == ["Was ist das?", "How do I write?", "Which ink?"]
    # No space where a line of Chinese ends, but one between two paragraphs.
    chinese = Pair("\u8fd9\u662f\u4ec0\u4e48\uff1f", "\u4e00\u79cd\u5de5\u5177\u3002 \u597d\u3002")
    assert load_pairs("debian-faq:zh-cn") == (chinese,)


def test_debian_questions_and_answers_of_two_languages_meet_at_their_anchors(install_debian):
    install_debian(debian_pages())
    listing = list_pairs("debian-faq:en:de")
    assert listing.pairs == (Pair("What is this?", "Ein Werkzeug."),)
    assert listing.left_out == {"sections that are not translated": 2, "sections that de lacks": 2}
    assert load_pairs("debian-faq:de:en") == (Pair("Was ist das?", "A tool, pen. Write <here>: So."),)


@pytest.mark.parametrize("choice", ["xx", "de:xx", "en:de:fr", "en:", "zh"])
def test_unknown_debian_languages_are_refused_with_the_known_ones(choice):
    with pytest.raises(InputError, match=f"'debian-faq:{choice}'") as raised:
        load_pairs(f"debian-faq:{choice}")
    assert "ja, ko, nl, pt, ru, zh-cn" in raised.value.expected


def test_an_absent_language_names_its_package(install_debian):
    install_debian(debian_pages())
    with pytest.raises(InputError, match=r"FAQ/ja/\*\.ja\.html") as raised:
        load_pairs("debian-faq:en:ja")
    assert raised.value.fix.startswith("apt-get install debian-faq-ja,")


def sphinx(title, *sections):
    link = '<a class="headerlink" href="#x" title="Permalink to this headline">\u00b6</a>'
    body = "".join(f'<section id="s{n}">\n<h2>{name}{link}</h2>\n{text}</section>\n' for n, (name, text) in enumerate(sections))
    contents = '<div class="topic contents"><p class="topic-title">Contents</p></div>'
    page = f'<section id="page">\n<h1>{title}</h1>{contents}\n{body}</section>'
    return f"<!DOCTYPE html><html><body><h3>Menu</h3>{page}</body></html>"


def test_python_sections_of_the_newest_version(install_debian):
    code = (
        '<div class="highlight-python3 notranslate"><div class="highlight"><pre><span></span>x = 1\ny = 2\n</pre></div></div>'
    )
    inner = "<section id='deep'><h3>Why <code>self</code>?</h3><p>Because.</p></section>"
    page = sphinx("A FAQ", ("Why indent?", f"<p>For <em>clarity</em>.\nSee:</p>\n{code}<p>Done.</p>"), ("General", inner))
    old = sphinx("A FAQ", ("Why old?", "<p>It was.</p>"))
    install_debian(
        {
            "usr/share/doc/python3.9/html/faq/design.html": old,
            "usr/share/doc/python3.11/html/faq/design.html": page,
            "usr/share/doc/python3.11/html/faq/index.html": sphinx("Index"),
        }
    )
    listing = list_pairs("python-faq")
    assert listing.pairs == (Pair("Why indent?", "For clarity. See: Done."), Pair("Why self?", "Because."))
    assert listing.left_out == {"entries without question or answer": 1}


POD = """\
=head1 NAME

perlfaq4 - Invented questions

=head2 What does C<< $x->y >> do?
X<word> X<I<other> word>

It calls B<y>, S<at once>. See L<perlop>, L<perlop/"Sorting">, L<the site|http://example.org/>
and L<http://example.org/a>.

    $x->y;

Or:

    $x->y;

    $x->z;

=over 4

=item *

C<E<lt>>, not E<gt>.

=item Named thing

=back

=begin comment

Not this.

    nor this

=end comment

=head2 Is this B<two
lines>?

Yes.

=head2 No answer

    code->only;
    code->more;

=head1 AUTHOR

Nobody.
"""


def test_perl_questions_of_the_newest_version(install_debian):
    install_debian(
        {
            "usr/share/perl/5.36.0/pod/perlfaq4.pod": POD,
            "usr/share/perl/5.36.0/pod/perlfaq.pod": "=head2 An index?\n\nNot read.\n",
            "usr/share/perl/5.8.9/pod/perlfaq4.pod": "=head2 Old?\n\nOld.\n",
        }
    )
    listing = list_pairs("perlfaq")
    links = "See perlop, Sorting in perlop, the site and http://example.org/a."
    answer = f"It calls y, at once. {links} $x->y; Or: <, not >. Named thing"
    assert listing.pairs == (Pair("What does $x->y do?", answer), Pair("Is this two lines?", "Yes."))
    assert listing.left_out == {"entries without question or answer": 1}


@pytest.mark.parametrize(
    ("pod", "text"),
    [
        ("C<a> and C<< b > c >> and C<<< d >> e >>>", "a and b > c and d >> e"),
        ("a < b, F</etc/x>, I<B<deep>>", "a < b, /etc/x, deep"),
        ("E<sol>E<verbar>E<eacute>E<0x201E>E<65>E<0101>", "/|\u00e9\u201eAA"),
        ("Z<>x C<unclosed", "x unclosed"),
        ("L<a B<c>|perlop/x> L</here>", "a c here"),
    ],
)
def test_formatting_codes_give_way_to_their_text(pod, text):
    assert plain_text(pod) == text


@pytest.mark.parametrize("name", ["perlfaq", "python-faq"])
def test_what_is_read_whole_has_no_parts(name):
    with pytest.raises(InputError, match=f"'{name}:5'"):
        load_pairs(f"{name}:5")


@pytest.mark.parametrize(
    ("name", "module", "package"), [("debian-faq", "bs4", "beautifulsoup4"), ("python-faq", "bs4", "beautifulsoup4")]
)
def test_a_missing_library_is_named_with_its_install_line(install_debian, monkeypatch, name, module, package):
    install_debian({**debian_pages(), "usr/share/doc/python3.11/html/faq/design.html": sphinx("A FAQ")})
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"{name}.* needs the package {package}") as raised:
        load_pairs(name)
    assert f"pip install {package}" in raised.value.fix
