"""Sentences end where their language ends them."""

import pytest

from bge_integrations.documents.sentence_ends import sentences


@pytest.mark.parametrize(
    "expected",
    [
        ["他说：“今天很好。”", "然后走了。"],
        ["真的吗？！", "我不信。。。"],
        ["「行きましょう。」と彼は言った。"],
        ["東京です。", "大阪です｡", "京都です。"],
        ["本当ですか？！", "信じられない。。。"],
        ["他说：「好。」", "然后走了。"],
        ["The patient was seen by Dr. Smith."],
        ["The fee is approx. 20 Euro, see fig. 3.", "Then leave."],
        ["See Figs. 3 and 4, and No. 7.", "He left."],
        ["Prof. Lee and Mrs. Jones met Gen. Smith.", "They left at 5 p.m.", "Then rain fell."],
        ["She works at Acme Inc. in the U.S. and Canada.", "J. R. R. Tolkien wrote it."],
        ["“Stop!” he said.", "He left."],
        ["Wait... what?", "Yes!!!", "No?!", "Fine."],
        ["Visit example.com.", "It is v1.2.3 at 3.14.", "Done."],
        ["1. Pandas eat bamboo.", "2. Owls hunt."],
        ["هل أنت بخير؟", "نعم أنا بخير.", "شكرا!"],
        ["یہ ایک جملہ ہے۔", "یہ دوسرا ہے۔"],
        ["यह क्या है?", "यह घर है।", "ठीक।"],
        ["Am 3. Oktober war es kalt, z. B. in Berlin.", "Dann kam Dr. Müller.", "Sie ging."],
        ["Das kostet ca. 20 Euro, vgl. Abb. 3.", "Danach."],
        ["M. Dupont est arrivé.", "« Bonjour ! » dit-il.", "Il est parti."],
        ["El Sr. López llegó.", "¿Cómo está?", "¡Bien!"],
        ["Он жил на ул. Ленина, д. 5.", "Потом уехал в 2020 г. в Москву."],
        ["Τι κάνεις;", "Καλά."],
        ["ሰላም ነው።", "እንዴት ነህ።"],
        ["မင်္ဂလာပါ။", "နေကောင်းလား။"],
        ["ខ្ញុំសុខសប្បាយ។", "អ្នក?"],
        ["བཀྲ་ཤིས། །", "བདེ་ལེགས།"],
        ["『本当に？』と聞いた。", "はい。"],
        ['그는 "좋아요."라고 말했다.', "끝."],
        ["— Привет! — сказал он.", "И ушёл."],
        ["He got a Ph.D. with ASP.NET.", "See Eq. (4) and Sec. [2]."],
        ["He is 5 ft. 3 in. tall.", "It cost 5 mio. Euro.", "Come on Mon. Jan. 5."],
        ["Im 19. Jahrhundert kam Dr. hab. Weber.", "Ja."],
        ["i went home.", "then i slept."],
    ],
)
def test_sentences(expected):
    between = "" if any("\u3041" <= letter <= "\u9fff" for letter in expected[0]) else " "
    assert sentences(between.join(expected)) == expected


def test_a_long_line_is_split_like_a_short_one():
    some = ["Pandas eat bamboo.", "Dr. Smith saw approx. 20 of them.", "“Why?” he asked."]
    assert sentences(" ".join(some * 1000)) == some * 1000
    assert sentences("大" * 10_000 + "。小。") == ["大" * 10_000 + "。", "小。"]
    assert sentences("。" * 10_000) == ["。" * 10_000]
    assert sentences(" \n\n ") == []
