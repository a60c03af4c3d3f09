/** The tokenizers of released models, and text as it comes. */
import { writeFile } from "node:fs/promises";
import { assert, assertEquals, assertRejects } from "@std/assert";
import fc from "fast-check";
import { FormatError } from "../mod.ts";
import { TextStream } from "../examples/models/text_stream.ts";
import { byteTokenizer } from "../examples/models/byte_tokenizer.ts";
import { loadTokenizer } from "../examples/models/tokenizer.ts";
import { bytePair } from "./byte_pair.ts";
import { inFolder, llama, writeCheckpoint } from "./checkpoints.ts";
import { run } from "./command.ts";
import { testInDeno, testOnCpu } from "./harness.ts";

/** A sentencepiece-like BPE tokenizer in the layout of LLaMA's: ▁ for spaces, bytes for what is unknown. */
function llamaLike(): object {
  const pieces = ["<unk>", "<s>", "</s>"];
  for (let byte = 0; byte < 256; byte++) {
    pieces.push(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
  }
  pieces.push("▁", "a", "b", "▁a", "ab", "▁ab");
  const special = (id: number) => ({
    id,
    content: pieces[id],
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  });
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [0, 1, 2].map(special),
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "▁" },
        { type: "Replace", pattern: { String: " " }, content: "▁" },
      ],
    },
    pre_tokenizer: null,
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
      special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: "<unk>",
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: true,
      vocab: Object.fromEntries(pieces.map((piece, id) => [piece, id])),
      merges: ["▁ a", "a b", "▁a b", "▁ ab"],
    },
  };
}

async function withTokenizer(
  content: object,
  settings: object | undefined,
  fn: (
    tokenizer: Awaited<ReturnType<typeof loadTokenizer>>,
    folder: string,
  ) => Promise<void> | void,
): Promise<void> {
  await inFolder(async (folder) => {
    await writeFile(`${folder}/tokenizer.json`, JSON.stringify(content));
    if (settings !== undefined) {
      await writeFile(`${folder}/tokenizer_config.json`, JSON.stringify(settings));
    }
    await fn(await loadTokenizer(folder), folder);
  });
}

testOnCpu("a byte-level tokenizer.json merges, comes back, and knows its end", async () => {
  const merges: [string, string][] = [["t", "h"], ["th", "e"], ["Ġ", "the"]];
  await withTokenizer(bytePair(merges), { eos_token: "<|endoftext|>" }, (tokenizer) => {
    assertEquals(tokenizer.encode("the the"), [257, 258]);
    assertEquals(tokenizer.encode("tie"), [..."tie"].map((c) => c.charCodeAt(0)));
    assertEquals(tokenizer.endOfText, 259);
    assertEquals(tokenizer.encode("the<|endoftext|>"), [257, 259]);
    assertEquals(tokenizer.decode([257, 259, 258]), "the the");
    assertEquals(tokenizer.decode([]), "");
    // A counterexample of the property: the package cleaned spaces up.
    assertEquals(tokenizer.decode(tokenizer.encode("a . b")), "a . b");
    fc.assert(fc.property(fc.string({ unit: "grapheme" }), (text) => {
      assertEquals(tokenizer.decode(tokenizer.encode(text)), text);
    }));
  });
});

testOnCpu("a LLaMA-like tokenizer.json begins with its special token", async () => {
  const settings = { eos_token: { content: "</s>" }, bos_token: "<s>" };
  await withTokenizer(llamaLike(), settings, (tokenizer) => {
    assertEquals(tokenizer.encode("ab ab"), [1, 264, 264]);
    assertEquals(tokenizer.encode("ab", { special: false }), [264]);
    assertEquals(tokenizer.encode("é", { special: false }), [259, 3 + 0xc3, 3 + 0xa9]);
    assertEquals(tokenizer.decode([1, 264, 264]), "ab ab");
    assertEquals(tokenizer.endOfText, 2);
    // After a prompt the space of the first word is a space.
    const stream = new TextStream(tokenizer, { prompt: [1, 264] });
    assertEquals(stream.push(264), " ab");
    assertEquals([stream.push(3 + 0xc3), stream.push(3 + 0xa9)], ["", "é"]);
    assertEquals(new TextStream(tokenizer).push(264), "ab");
  });
});

testOnCpu("files that are no tokenizer are refused", async () => {
  await inFolder(async (folder) => {
    await writeFile(`${folder}/tokenizer.json`, "{");
    await assertRejects(() => loadTokenizer(folder), FormatError, "not JSON");
    await writeFile(`${folder}/tokenizer.json`, '{"model":{"type":"Runes"}}');
    await assertRejects(() => loadTokenizer(folder), FormatError, "not a tokenizer");
  });
});

testOnCpu("text as it comes is the text, in whole characters, up to the first stop", () => {
  const texts = fc.array(fc.constantFrom("a", "b", "ab", "é", "漢", "😀", "stop", "st"), {
    maxLength: 12,
  });
  const stops = fc.array(fc.constantFrom("stop", "ba", "é漢", "aab", ""), { maxLength: 2 });
  fc.assert(fc.property(texts, stops, (parts, stops) => {
    const text = parts.join("");
    const ends = stops.filter((stop) => stop !== "").map((stop) => text.indexOf(stop));
    const end = Math.min(text.length, ...ends.filter((at) => at >= 0));
    const stream = new TextStream(byteTokenizer, { stops });
    const pieces: string[] = [];
    for (const byte of byteTokenizer.encode(text)) {
      if (!stream.stopped) pieces.push(stream.push(byte));
    }
    const wasStopped = stream.stopped;
    pieces.push(stream.end());
    assert(pieces.every((piece) => !piece.includes("\ufffd") && piece.isWellFormed()));
    assertEquals(pieces.join(""), text.slice(0, end));
    assertEquals(wasStopped, end < text.length || ends.includes(end));
  }));
});

testOnCpu("bytes that are no UTF-8 do not hold up the text", () => {
  const stream = new TextStream(byteTokenizer);
  const out = Array.from({ length: 8 }, () => stream.push(0xff)).join("") + stream.push(0x61);
  assertEquals((out + stream.end()).replaceAll("\ufffd", ""), "a");
  assert(out.length >= 8);
});

testInDeno("`deno task generate --model` writes with a released model", async () => {
  await withTokenizer(bytePair([["t", "h"]]), { eos_token: "<|endoftext|>" }, async (_, folder) => {
    await writeCheckpoint(folder, llama({ vocab_size: 258 }), { dtype: "BF16", shards: 2 });
    const flags = `--model ${folder} --prompt this --tokens 9 --backend cpu`;
    const { code, out, err } = await run("generate", flags);
    assertEquals(code, 0, err);
    assert(out.startsWith("this") && out.length > 6, out);
    assert(/[\d.]+ tokens\/s/.test(err), err);
  });
});
