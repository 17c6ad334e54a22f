"""The readme on a package index: links and images have absolute addresses, or are plain text."""

from __future__ import annotations

import pages
import pytest

hatch_build = pytest.importorskip("hatch_build", reason="hatchling builds the package where it is developed")


def test_links_and_images_lead_to_the_files_of_the_release():
    text = (
        "See [the\nledger](docs/ledger.md#home), [PayArc](https://www.payarc.com/) and ![a picture](docs/images/a.svg)."
    )

    assert hatch_build.rendered_anywhere(text, "acme/payarc", "v1.2.3") == (
        "See [the\nledger](https://github.com/acme/payarc/blob/v1.2.3/docs/ledger.md#home), "
        "[PayArc](https://www.payarc.com/) and "
        "![a picture](https://raw.githubusercontent.com/acme/payarc/v1.2.3/docs/images/a.svg)."
    )


def test_without_a_repository_they_are_plain_text():
    text = "See [the `ledger`](docs/ledger.md), [PayArc](https://www.payarc.com/) and ![a picture](docs/images/a.svg)."

    assert hatch_build.rendered_anywhere(text, None, "v1.2.3") == (
        "See the `ledger`, [PayArc](https://www.payarc.com/) and a picture."
    )


def test_code_stays_as_it_is():
    code = pages.text("README.md").split("```")[1::2]

    assert code == hatch_build.rendered_anywhere(pages.text("README.md"), None, "v1").split("```")[1::2]


def test_the_urls_are_those_of_the_repository():
    assert hatch_build.urls("Acme/payarc", "v1.2.3") == {
        "Homepage": "https://github.com/Acme/payarc",
        "Documentation": "https://acme.github.io/payarc/",
        "Changelog": "https://github.com/Acme/payarc/blob/v1.2.3/CHANGELOG.md",
        "Issues": "https://github.com/Acme/payarc/issues",
        "Source": "https://github.com/Acme/payarc",
    }
