#!/usr/bin/env python3
"""Writes lines.jsonl beside this file: 2,400 texts that are hard to tokenize, one JSON string a line."""

import json
import pathlib
import random

COUNT = 2000
# Lines on the seams of the expressions that cut text into words: case, marks, contractions, digits, line breaks.
SEAMS_COUNT = 400
SENTENCES = [
    "The river was high that spring, and nobody crossed it before May.",
    "Der Zug nach München fährt um 17:45 Uhr; wir müssen uns beeilen!",
    "Où est passé l'élève qui n'avait pas fini son déjeuner ?",
    "Mañana iré al mercado: ¿quieres que te traiga algo, niño?",
    "Il gatto è già salito sull'albero, però non sa più scendere.",
    "A avó fez pão de ló; não sobrou nem uma migalha até amanhã.",
    "De fiets stond nog steeds bij 't station, zei ze.",
    "Älven frös till is på en natt, så vi åkte skridskor över ån.",
    "Øya ligger langt ute i havet, og båten går bare på fredager.",
    "Þegar snjórinn bráðnaði kom í ljós að ærnar voru allar á lífi.",
    "Järvi oli tyyni, ja yöttömän yön valo häikäisi meitä.",
    "Zażółć gęślą jaźń – powiedział, i wszyscy się roześmiali.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy až do rána.",
    "Az öreg híd őrzője tűzifát gyűjtött a folyó túlsó partján.",
    "Când a început ploaia, țăranii și-au strâns fânul în șură.",
    "Škola je počela, a đaci su već čekali ljetne praznike.",
    "Снег растаял, и по улице побежали ручьи — весна!",
    "Їжак приніс яблуко під ґанок, і ми його сфотографували.",
    "Ο παππούς μού έδειξε πώς ψήνουν το ψωμί στον φούρνο.",
    "İstanbul'da ılık bir akşamdı; çaylarımızı içip şarkı söyledik.",
    "השוק נסגר מוקדם ביום שישי, אז קנינו לחם וזיתים בבוקר.",
    "وصلت الرسالة بعد ثلاثة أيام، وكان فيها خبرٌ سعيدٌ جدًّا.",
    "باران که گرفت، بچه‌ها زیر طاق بازار پناه بردند و می‌خندیدند.",
    "बारिश के बाद खेतों में मेंढक गा रहे थे, और हवा ठंडी थी।",
    "নৌকাটা ভোরে ঘাট ছেড়ে গেল, আমরা হাত নাড়লাম।",
    "மழை நின்றதும் குழந்தைகள் தெருவில் ஓடி விளையாடினர்.",
    "รถไฟเที่ยวสุดท้ายออกไปแล้ว เราจึงเดินกลับบ้านใต้แสงจันทร์",
    "Chuyến tàu cuối cùng đã rời ga; chúng tôi đi bộ về nhà dưới trăng.",
    "昨晚下了一场大雪，今天早上整座城市都安静了。",
    "駅前の本屋は閉店しましたが、カフェはまだ開いています。",
    "겨울이 끝나자 할머니는 마당에 상추 씨를 뿌리셨다.",
    "ზამთარში სოფელი თოვლით იფარება და სიჩუმეა.",
    "Գարնանը ծիրանենիները ծաղկեցին ամբողջ հովտում։",
    "በጋ ሲመጣ ልጆቹ ወንዙ ዳር ይጫወታሉ።",
    "Mvua ilipoanza, ng'ombe walirudi zizini wenyewe.",
    "ព្រះអាទិត្យ រះ ហើយ យើង ចេញ ដំណើរ។",
]
EMOJI = [
    "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🧑🏿‍🚀", "👨🏻‍🦰", "🇸🇪", "🇯🇵🇧🇷", "❤️‍🔥", "1️⃣", "#️⃣", "🫠", "🤷🏼‍♀️", "☕️", "⌚", "🐈‍⬛", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "😀", "🩷",
]
MARKS = ["e\u0301", "n\u0303", "a\u030a\u0323", "Z\u0351\u036b\u0343", "\u0bb5\u0bbe", "क्‍ष", "ﷺ", "ﬁ", "Å", "\u200d", "\u200b", "\ufeff", "\u00ad"]
DIGITS = ["0123456789", "٠١٢٣٤٥٦٧٨٩", "۰۱۲۳۴۵۶۷۸۹", "०१२३४५६७८९", "๐๑๒๓๔๕๖๗๘๙", "０１２３４５６７８９", "𝟘𝟙𝟚𝟛", "½⅓¾²³¹⁴₅", "ⅧⅨⅫ", "①②㊿", "〇一二三"]
SPACES = [" ", "  ", "   ", "\t", "\t\t", "\n", "\n\n", "\r\n", "\r", " \n ", "\u00a0", "\u2003", "\u3000", "\u2028", "\u0085", "\u1680", "\v", "\f", " \t \n"]
CODE = [
    "fn main() { let x: Vec<u8> = vec![0; 1 << 10]; }",
    "for (int i = 0; i < n; ++i) a[i] += b[i] * 0x1F;",
    "    if x is not None and y >= 3.5e-7:\n        return f\"{x!r:>10}\"",
    "SELECT COUNT(*) FROM orders WHERE price >= 19.99 AND name LIKE '%it''s%';",
    "<div class=\"box\" id='b1'>&nbsp;&#x27;</div><!-- note -->",
    "{\"key\": [1, 2.50, null, true], \"\\u00e9\": \"\\n\"}",
    "$ grep -rnE '^[a-z_]+\\(' src/ | awk '{print $1}' >> out.txt 2>&1",
    "\\frac{\\partial L}{\\partial w_{ij}} = \\sum_{k=1}^{n} \\delta_k x_i",
    "def\tf(self,*args,**kw):\r\n\t\tpass  # ok",
    "#define MAX(a,b) (((a)>(b))?(a):(b))",
    "https://example.org/a/b?c=d&e=%20f#g-42",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "=>>=<<!==::->|>=~?.&&||",
]
LOOKALIKES = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>", "<filename>", "<gh_stars>",
    "<issue_start>", "<jupyter_code>", "<empty_output>", "<|im_start|", "|im_end|>", "<|im_ end|>", "<|IM_END|>", "<<|im_end|>>",
    "<|im_start|>user\nhi<|im_end|>\n", "<s>", "</s>", "<unk>", "[INST]", "<think>", "</think>", "<|im_start|><|im_start|>",
]
SHORT = ["'s", "'S", "'ll", "'re", "don't", "I'VE", "we'd", "’s", "it's", "''", "'", "' t", "'1", "x'mas", "rock'n'roll", "o'clock's", "'\u0301"]
BLOCKS = [
    (0x20, 0x7E), (0xA1, 0x17F), (0x180, 0x24F), (0x250, 0x36F), (0x370, 0x52F), (0x530, 0x6FF), (0x700, 0x8FF), (0x900, 0xDFF),
    (0xE00, 0x10FF), (0x1100, 0x13FF), (0x1400, 0x1CFF), (0x1D00, 0x1FFF), (0x2000, 0x22FF), (0x2300, 0x27FF), (0x2800, 0x2E7F),
    (0x2E80, 0x33FF), (0x3400, 0x9FFF), (0xA000, 0xABFF), (0xAC00, 0xD7A3), (0xE000, 0xF8FF), (0xF900, 0xFFFD), (0x10000, 0x1044F),
    (0x10450, 0x11FFF), (0x12000, 0x16FFF), (0x17000, 0x1BFFF), (0x1D000, 0x1D7FF), (0x1E000, 0x1EFFF), (0x1F000, 0x1FAFF),
    (0x20000, 0x323AF), (0xE0000, 0xE01EF), (0x40000, 0x40FFF), (0x10FF00, 0x10FFFF),
]


SEAM_ATOMS = [
    *"aZéÉßŁǅʰªλΩж猫かㄅ가ㅎกเ", "abc", "ABC", "Abc", "aBC", "éÀ", "ÀÉ", "中文", "カタ", "ㄅㄆ", "한글", "\u10d0\u1c90", "\u0561\u0579", "\ua790", "\ufb01",
    *"1٣½", "12", "123", "1234", "1234567", "٣٤٥", "12٣", "²³", "0", *"\u0301\u094d\u20dd", "e\u0301", "\u0e34", *"'’\"!/.,:;()[]{}_-—…。、，：！？「」・।۔،",
    *"$+<=>^~|`€©🎉", "'s", "'S", "'t", "'re", "'VE", "'ll", "'lL", "'d", "'M", "'\u017f", "//", "/\n", "\\n", "***", "---",
    " ", " ", " ", "  ", "   ", "    ", "\n", "\n", "\n\n", "\r\n", "\r", " \n", "\n ", "\t", "\u00a0", "\u2003", "\u3000", "\u2028", "\u0085", "\v",
    "\0", "\u200b", "\u200d", "\ufeff", "\ue000", "\u0378", "▁", "Ġ", "<s>", "</s>", "<0x0A>", "<unk>", "<|im_end|>",
]


def number(rng):
    digits = rng.choice(DIGITS)
    text = "".join(rng.choice(digits) for _ in range(rng.randint(1, 9)))
    return rng.choice(["", "$", "-", "+", "x", "№", " "]) + text + rng.choice(["", ".", "%", ",5", "km", "e9", "th", " "])


def any_characters(rng):
    low, high = rng.choice(BLOCKS)
    return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 8)))


def control(rng):
    return "".join(chr(rng.choice([*range(0x20), 0x7F, *range(0x80, 0xA0)])) for _ in range(rng.randint(1, 4)))


def long_word(rng):
    unit = rng.choice(["a", "ha", "Donaudampfschiff", "é", "ж", "猫", " ", "\n", "-", "=", "0", "9٣", "🎉", "aA", "\t", ". ", "'s", "\u0301"])
    return unit * (rng.randint(10, 300) // len(unit) + 1)


def fragment(rng):
    kind = rng.randrange(20)
    sentence = rng.choice(SENTENCES)
    words = sentence.split(" ")
    if kind < 4:
        start = rng.randrange(len(words))
        return " ".join(words[start:start + rng.randint(1, 5)])
    if kind == 4:
        start = rng.randrange(len(sentence))
        return sentence[start:start + rng.randint(1, 12)]
    if kind == 5:
        return rng.choice([str.upper, str.lower, str.title, str.swapcase])(sentence)[:40]
    if kind == 6:
        code = rng.choice(CODE)
        start = rng.randrange(len(code))
        return code[start:start + rng.randint(2, 30)]
    lists = {7: EMOJI, 8: MARKS, 9: SPACES, 10: SPACES, 11: LOOKALIKES, 12: SHORT, 13: EMOJI}
    if kind in lists:
        return rng.choice(lists[kind])
    return [number, number, any_characters, any_characters, any_characters, control][kind - 14](rng)


def line(rng):
    if rng.random() < 0.03:
        return long_word(rng)
    return "".join(fragment(rng) + rng.choice(["", "", " ", rng.choice(SPACES)]) for _ in range(rng.randint(1, 9)))


def seam(rng):
    if rng.random() < 0.05:
        return rng.choice([" ", "\t", "\u3000", " \n", "A", "éA", "1", "1 "]) * rng.choice([3, 7, 64, 130, 300, 513]) + rng.choice(["", "x", "\n"])
    return "".join(rng.choice(SEAM_ATOMS) for _ in range(rng.randint(2, 24)))


def lines():
    rng = random.Random(20)
    fixed = ["", " ", "\n", "\0", "a", "é", *SENTENCES, *EMOJI, *MARKS, *DIGITS, *SPACES, *CODE, *LOOKALIKES, *SHORT]
    fixed += [first + second for first in SPACES for second in SPACES]
    lines = (fixed + [line(rng) for _ in range(COUNT - len(fixed))])[:COUNT]
    return lines + [seam(rng) for _ in range(SEAMS_COUNT)]


def main():
    path = pathlib.Path(__file__).with_name("lines.jsonl")
    with path.open("w", encoding="utf-8", newline="\n") as out:
        for text in lines():
            out.write(json.dumps(text) + "\n")


if __name__ == "__main__":
    main()
