"""Strings that trip tokenizers, from a seed; shared by the test_tok_*.py files."""
import random

WORDS = """the of and to in is that it for was on are as with they be at one have this from by hot but some what there we can out
other were all your when up use word how said an each she which do their time if will way about many then them would write like
so these her long make thing see him two has look more day could go come did my sound no most number who over know water than
call first people may down side been now find Don't I'm we'll they've HE'S IT'D you'RE o'clock isn't İstanbul naïve café
übergröße Москва привет мир здравствуйте 日本語 テスト 漢字かな交じり文 你好世界 안녕하세요 한국어 שלום עולם مرحبا بالعالم ภาษาไทย
हिन्दी भाषा বাংলা தமிழ் తెలుగు ქართული Ελληνικά հայերեն አማርኛ Việt Nam Đặng Straße ÆØÅ ñandú e\u0301 a\u0308o\u0308
\u1112\u1161\u11ab か\u3099 \u0958 \u212b \ufb01 ½ ² ³ Ⅷ ① ٣٤٥ ४५६ 一二三 𝟘𝟙 𝒜𝓑 ǅ ʰ ª""".split()
CODE = ["def f(x):\n    return x**2  # sq\n", "#include <stdio.h>\nint main(void)\n{\n\treturn 0;\n}\n", "for(i=0;i<10;i++){a[i]+=1;}",
        "SELECT * FROM t WHERE a='b' AND c<>1;", "<div class=\"x\">&nbsp;</div>", "x = {'a': [1, 2.5e-3], \"b\": None}",
        "\\frac{a}{b} \\alpha_{i}^{2}", "https://example.org/a?b=c&d=%20#e", "C:\\Users\\x\\y.txt", "a\tb\t\tc\r\nd\r\n\r\ne",
        "if __name__ == '__main__':\n        pass\n\n\n", "let s = `${a}`;//x", "$ rm -rf ./a && echo \"done\" || exit 1", "1.234,56 €"]
EMOJI = list("😀🎉👍🏽🔥❤️🏳️‍🌈🧑‍💻🇩🇪🇯🇵") + ["👨‍👩‍👧‍👦", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "✂️", "🤷🏻‍♀️"]
BLANKS = [" ", "  ", "   ", "        ", "\n", "\n\n", "\n\n\n\n", "\t", "\t\t", "\r\n", " \n", "\n ", " \n \n", "\u00a0", "\u2003", "\u3000",
          "\u200b", "\x0b", "\x0c", "\x85", "\u2028", "\u180e", "\u1680", " \u00a0 ", "\u202f", "\ufeff"]
DIGITS = ["0", "7", "42", "123", "1234", "12345", "1234567890", "3.14", "-1", "1,000,000", "0x1F", "1e10", "2024-01-31", "12:34:56"]
LOOKALIKES = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|begin_of_text|>", "<s>", "</s>", "<unk>", "<pad>",
              "<bos>", "<end_of_turn>", "<start_of_turn>user\n", "<repo_name>", "<filename>", "<|im_start", "|im_end|>", "<|", "|>",
              "< |im_end|>", "<|IM_END|>", "[INST]", "[/INST]", "<think>", "</think>", "<tool_call>", "<0x0A>", "<0xFF>", "▁", "▁the",
              "Ġ", "Ċ", "<|im_end|><|im_end|>", "<|im_end|> ", " <|im_end|>", "<unused1>", "<mask>", "<|start_header_id|>user<|end_header_id|>",
              "<|reserved_special_token_7|>", "<|finetune_right_pad_id|>", "<|vision_start|>", "<start_of_image>", "<2mass>", "<unused99>",
              "[multimodal]", "<h1>", "</strong>", "<tool_response>", "<|fim_prefix|>", "\n\n\n", "\t\t\t", "▁▁▁▁"]
PUNCT = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + ["...", "--", "—", "…", "“", "”", "«", "»", "¿", "!!!", "?!", "';", "'s", "'S", "'ll",
                                                      "'", "''", "。", "、", "‘", "’s", "'ſ", "//", "\\n", "/\n", "\"\n\n"]
CONTROL = [chr(c) for c in (0, 1, 2, 3, 5, 7, 8, 0x0e, 0x1b, 0x1f, 0x7f, 0x80, 0x9f, 0xad)]


def scalar(rng, low, high):
    while True:
        c = rng.randrange(low, high)
        if not 0xD800 <= c <= 0xDFFF:
            return chr(c)


def piece(rng):
    kind = rng.randrange(21)
    if kind < 6:
        return rng.choice(WORDS) if rng.random() < 0.5 else " " + rng.choice(WORDS)
    if kind < 8:
        return rng.choice(BLANKS) * rng.choice((1, 1, 1, 2, 3, 7))
    if kind < 10:
        return rng.choice(DIGITS)
    if kind < 12:
        return rng.choice(PUNCT)
    if kind == 12:
        return rng.choice(EMOJI)
    if kind == 13:
        return rng.choice(CODE)
    if kind == 14:
        return rng.choice(LOOKALIKES)
    if kind == 15:
        return scalar(rng, 0x20, 0x250)
    if kind == 16:
        return scalar(rng, 0x250, 0x3000)
    if kind == 17:
        return scalar(rng, 0x3000, 0x10000)
    if kind == 18:
        return scalar(rng, 0x10000, 0x20000) if rng.random() < 0.5 else rng.choice(CONTROL)
    if kind == 19:  # random bytes; what is no UTF-8 becomes U+FFFD
        return rng.randbytes(rng.randrange(1, 9)).decode("utf-8", "replace")
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyzABCXYZ", k=rng.randrange(1, 30)))


def strings(n, seed=1):
    """n strings: each fixed sample once, then random mixtures."""
    rng = random.Random(seed)
    out = WORDS + CODE + EMOJI + BLANKS + DIGITS + LOOKALIKES + PUNCT + CONTROL
    out += ["", " ", "a" * 300, "ab" * 200, " " * 200, "\n" * 100, "0" * 77, "日" * 90, "a b " * 60]
    while len(out) < n:
        out.append("".join(piece(rng) for _ in range(rng.randrange(1, 16))))
    return out[:n]


def unique_strings(n, seed=1):
    """n different strings."""
    rng = random.Random(seed)
    out = dict.fromkeys(strings(500, seed))
    while len(out) < n:
        out["".join(piece(rng) for _ in range(rng.randrange(1, 8)))] = None
    return list(out)


def test_strings_are_many_and_repeatable():
    assert len(set(strings(5000))) > 3500
    assert strings(700, seed=3) == strings(700, seed=3) != strings(700, seed=4)
