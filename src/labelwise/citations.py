"""The works that labelwise builds on, as data, for `labelwise cite` and BibTeX."""

from __future__ import annotations

import re
from dataclasses import dataclass

from labelwise import __version__

ARXIV = re.compile(r"\d{4}\.\d{5}")
HE = "Kaiming He"
BO_HAN = "Bo Han"
GIRSHICK = "Ross Girshick"
TONGLIANG = "Tongliang Liu"
GANG_NIU = "Gang Niu"
SUGIYAMA = "Masashi Sugiyama"
ICML, ICLR = (
    "International Conference on Machine Learning",
    ("International Conference on Learning Representations"),
)
NEURIPS = "Advances in Neural Information Processing Systems"
CVPR = "IEEE/CVF Conference on Computer Vision and Pattern Recognition"
ECCV = "European Conference on Computer Vision"
SPECIAL = {character: f"\\{character}" for character in "&%$#_{}"}


@dataclass(frozen=True)
class Work:
    """A paper, book, data set or program.

    Args:
        key: of its BibTeX entry.
        authors: "First Last" in order, "Two Words, First", or "The people of".
        title: as published.
        venue: journal, conference, publisher or institution; "" for an arXiv paper.
        year: of publication; 0 leaves it out.
        kind: BibTeX type.
        arxiv: number, by which it is found in a citation; "" where there is none.
        phrase: what else it is found by in a citation.
        url: where it is found.
    """

    key: str
    authors: tuple[str, ...]
    title: str
    venue: str
    year: int
    kind: str = "inproceedings"
    arxiv: str = ""
    phrase: str = ""
    url: str = ""

    @property
    def text(self) -> str:
        """One line for people."""
        names = [surname(name) for name in self.authors]
        who = f"{names[0]} et al." if len(names) > 5 else ", ".join(names)
        where = ", ".join(str(part) for part in (self.venue, self.year) if part)
        link = f", arXiv {self.arxiv}" if self.arxiv else f", {self.url}" if self.url else ""
        return f"{who}, {self.title}, {where}{link}"

    @property
    def bibtex(self) -> str:
        """Its BibTeX entry."""
        places = {"article": "journal", "book": "publisher", "techreport": "institution"}
        fields = {
            "author": " and ".join(f"{{{n}}}" if whole(n) else n for n in self.authors),
            "title": f"{{{escaped(self.title)}}}",
            "booktitle" if self.kind == "inproceedings" else places.get(self.kind, "howpublished"):
            escaped(self.venue),
            "year": str(self.year or ""),
            "eprint": self.arxiv,
            "archiveprefix": "arXiv" if self.arxiv else "",
            "url": self.url,
        }  # fmt: skip
        return entry(self.kind, self.key, fields)


def whole(name: str) -> bool:
    """Whether a name is not a person's, and must not be taken apart."""
    return name.startswith("The ")


def surname(name: str) -> str:
    """The surname of "First Last" and of "Two Words, First"."""
    return name if whole(name) else name.partition(",")[0] if "," in name else name.split()[-1]


def escaped(text: str) -> str:
    """Text with the characters that mean something to TeX made plain."""
    return "".join(SPECIAL.get(character, character) for character in text)


def entry(kind: str, key: str, fields: dict[str, str]) -> str:
    """A BibTeX entry of the fields that are not empty."""
    width = max(map(len, fields))
    lines = [f"  {name:{width}} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


WORKS = (
    Work("li2020dividemix", ("Junnan Li", "Richard Socher", "Steven C. H. Hoi"),
         "DivideMix: Learning with Noisy Labels as Semi-supervised Learning",
         ICLR, 2020, arxiv="2002.07394"),
    Work("zheltonozhskii2022c2d", ("Evgenii Zheltonozhskii", "Chaim Baskin", "Avi Mendelson",
                                   "Alex M. Bronstein", "Or Litany"),
         "Contrast to Divide: Self-Supervised Pre-Training for Learning with Noisy Labels",
         "IEEE/CVF Winter Conference on Applications of Computer Vision", 2022,
         arxiv="2103.13646"),
    Work("goodfellow2016deep", ("Ian Goodfellow", "Yoshua Bengio", "Aaron Courville"),
         "Deep Learning", "MIT Press", 2016, kind="book", phrase="Deep Learning, MIT Press",
         url="https://www.deeplearningbook.org"),
    Work("vangansbeke2020scan", ("Van Gansbeke, Wouter", "Simon Vandenhende",
                                 "Stamatios Georgoulis", "Marc Proesmans", "Van Gool, Luc"),
         "SCAN: Learning to Classify Images without Labels", ECCV, 2020, arxiv="2005.12320"),
    Work("han2018coteaching", (BO_HAN, "Quanming Yao", "Xingrui Yu", GANG_NIU, "Miao Xu",
                               "Weihua Hu", "Ivor Tsang", SUGIYAMA),
         "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels",
         NEURIPS, 2018, arxiv="1804.06872"),
    Work("yu2019disagreement", ("Xingrui Yu", BO_HAN, "Jiangchao Yao", GANG_NIU, "Ivor Tsang",
                                SUGIYAMA),
         "How does Disagreement Help Generalization against Label Corruption?", ICML, 2019,
         arxiv="1901.04215"),
    Work("huang2024hallucination", ("Po-Hsuan Huang", "Chia-Ching Lin", "Chih-Fan Hsu",
                                    "Ming-Ching Chang", "Wei-Chao Chen"),
         "Learning with Instance-Dependent Noisy Labels by Anchor Hallucination and Hard Sample "
         "Label Correction", "IEEE International Conference on Image Processing", 2024,
         arxiv="2407.07331"),
    Work("zhang2018mixup", ("Hongyi Zhang", "Moustapha Cisse", "Yann N. Dauphin",
                            "David Lopez-Paz"),
         "mixup: Beyond Empirical Risk Minimization", ICLR, 2018, arxiv="1710.09412"),
    Work("tu2023sanm", ("Yuanpeng Tu", "Boshen Zhang", "Yuxi Li", "Liang Liu", "Jian Li",
                        "Jiangning Zhang", "Yabiao Wang", "Chengjie Wang", "Cai Rong Zhao"),
         "Learning with Noisy labels via Self-supervised Adversarial Noisy Masking", CVPR, 2023,
         arxiv="2302.06805"),
    Work("sachdeva2023scanmix", ("Ragav Sachdeva", "Filipe R. Cordeiro", "Vasileios Belagiannis",
                                 "Ian Reid", "Gustavo Carneiro"),
         "ScanMix: Learning from Severe Label Noise via Semantic Clustering and Semi-Supervised "
         "Learning", "Pattern Recognition", 2023, kind="article", arxiv="2103.11395"),
    Work("zhao2022centrality", ("Ganlong Zhao", "Guanbin Li", "Yipeng Qin", "Feng Liu",
                                "Yizhou Yu"),
         "Centrality and Consistency: Two-Stage Clean Samples Identification for Learning with "
         "Instance-Dependent Noisy Labels", ECCV, 2022, arxiv="2207.14476"),
    Work("chen2020mocov2", ("Xinlei Chen", "Haoqi Fan", GIRSHICK, HE),
         "Improved Baselines with Momentum Contrastive Learning", "", 2020, kind="misc",
         arxiv="2003.04297"),
    Work("chen2020simclr", ("Ting Chen", "Simon Kornblith", "Mohammad Norouzi",
                            "Geoffrey Hinton"),
         "A Simple Framework for Contrastive Learning of Visual Representations", ICML, 2020,
         arxiv="2002.05709"),
    Work("patrini2017making", ("Giorgio Patrini", "Alessandro Rozza", "Aditya Krishna Menon",
                               "Richard Nock", "Lizhen Qu"),
         "Making Deep Neural Networks Robust to Label Noise: a Loss Correction Approach", CVPR,
         2017, arxiv="1609.03683"),
    Work("wei2022cifarn", ("Jiaheng Wei", "Zhaowei Zhu", "Hao Cheng", TONGLIANG, GANG_NIU,
                           "Yang Liu"),
         "Learning with Noisy Labels Revisited: A Study Using Real-World Human Annotations", ICLR,
         2022, arxiv="2110.12088"),
    Work("xia2020part", ("Xiaobo Xia", TONGLIANG, BO_HAN, "Nannan Wang", "Mingming Gong",
                         "Haifeng Liu", GANG_NIU, "Dacheng Tao", SUGIYAMA),
         "Part-dependent Label Noise: Towards Instance-dependent Label Noise", NEURIPS, 2020,
         arxiv="2006.07836"),
    Work("wang2018openset", ("Yisen Wang", "Weiyang Liu", "Xingjun Ma", "James Bailey",
                             "Hongyuan Zha", "Le Song", "Shu-Tao Xia"),
         "Iterative Learning with Open-set Noisy Labels", CVPR, 2018, arxiv="1804.00092"),
    Work("lee2019robust", ("Kimin Lee", "Sukmin Yun", "Kibok Lee", "Honglak Lee", "Bo Li",
                           "Jinwoo Shin"),
         "Robust Inference via Generative Classifiers for Handling Noisy Labels", ICML, 2019,
         arxiv="1901.11300"),
    Work("huang2020selfadaptive", ("Lang Huang", "Chao Zhang", "Hongyang Zhang"),
         "Self-Adaptive Training: beyond Empirical Risk Minimization", NEURIPS, 2020,
         arxiv="2002.10319"),
    Work("jordan2024airbench", ("Keller Jordan",),
         "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", "", 2024, kind="misc",
         arxiv="2404.00498", phrase="94% on CIFAR-10 in 3.29 Seconds"),
    Work("he2016identity", (HE, "Xiangyu Zhang", "Shaoqing Ren", "Jian Sun"),
         "Identity Mappings in Deep Residual Networks", ECCV, 2016, arxiv="1603.05027",
         phrase="Identity Mappings in Deep Residual Networks"),
    Work("wightman2019timm", ("Ross Wightman",), "PyTorch Image Models", "GitHub", 2019,
         kind="misc", phrase="PyTorch Image Models",
         url="https://github.com/huggingface/pytorch-image-models"),
    Work("krizhevsky2009learning", ("Alex Krizhevsky",),
         "Learning Multiple Layers of Features from Tiny Images", "University of Toronto", 2009,
         kind="techreport"),
    Work("li2017webvision", ("Wen Li", "Limin Wang", "Wei Li", "Eirikur Agustsson",
                             "Van Gool, Luc"),
         "WebVision Database: Visual Learning and Understanding from Web Data", "", 2017,
         kind="misc", arxiv="1708.02862"),
    Work("xiao2015clothing", ("Tong Xiao", "Tian Xia", "Yi Yang", "Chang Huang",
                              "Xiaogang Wang"),
         "Learning from Massive Noisy Labeled Data for Image Classification", CVPR, 2015),
    Work("song2019selfie", ("Hwanjun Song", "Minseok Kim", "Jae-Gil Lee"),
         "SELFIE: Refurbishing Unclean Samples for Robust Deep Learning", ICML, 2019),
    Work("alpaydin1998digits", ("Ethem Alpaydin", "Cenk Kaynak"),
         "Optical Recognition of Handwritten Digits", "UCI Machine Learning Repository", 1998,
         kind="misc", url="https://doi.org/10.24432/C50P49"),
)  # fmt: skip
"""Everything that methods, pre-training, noise and backbones cite, and the data sets."""
BY_KEY = {work.key: work for work in WORKS}
CIFAR = "krizhevsky2009learning"
DATASETS = {
    r"^digits$": ("alpaydin1998digits",),
    r"cifar[-_ ]?100?n(?![a-z])": (CIFAR, "wei2022cifarn"),
    r"cifar[-_ ]?10": (CIFAR,),
    r"webvision": ("li2017webvision",),
    r"clothing[-_ ]?1m": ("xiao2015clothing",),
    r"animal[-_ ]?10n": ("song2019selfie",),
}
"""The works of a data set, by what its name looks like; the first that fits counts."""
LIBRARY = Work(
    "labelwise", ("The labelwise developers",), f"labelwise {__version__}", "Python package", 0,
    kind="misc",
)  # fmt: skip


def find_work(citation: str) -> Work | None:
    """The work that a citation names, by its arXiv number or else a phrase; None if unknown."""
    numbers = ARXIV.findall(citation)
    for work in WORKS:
        if work.arxiv in numbers or (work.phrase and work.phrase in citation):
            return work
    return None


def works_of_data(name: str, column: str = "") -> tuple[Work, ...]:
    """The works of a data set, as far as its name tells which it is ("cifar-10-batches-py").

    Args:
        name: of the data.
        column: of the given labels: those of people on CIFAR are CIFAR-N's.
    """
    for pattern, keys in DATASETS.items():
        if re.search(pattern, name.casefold()):
            if keys == (CIFAR,) and column.startswith("human"):
                keys = (CIFAR, "wei2022cifarn")
            return tuple(BY_KEY[key] for key in keys)
    return ()
