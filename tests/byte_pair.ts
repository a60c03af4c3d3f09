/** GPT-2's names for bytes: printable ones are themselves, the others come from U+0100 on. */
function byteNames(): string[] {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const isPrintable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte !== 173);
    return String.fromCharCode(isPrintable ? byte : next++);
  });
}

/** A byte-level BPE tokenizer in the layout of GPT-NeoX's, with these merges. */
export function bytePair(merges: [string, string][]): object {
  const names = [...byteNames(), ...merges.map(([a, b]) => a + b)];
  const vocab = Object.fromEntries(names.map((name, id) => [name, id]));
  const end = { id: names.length, content: "<|endoftext|>", special: true };
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [{ ...end, ...flags }],
    normalizer: null,
    pre_tokenizer: {
      type: "ByteLevel",
      add_prefix_space: false,
      trim_offsets: true,
      use_regex: true,
    },
    post_processor: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true },
    decoder: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      vocab,
      merges: merges.map((pair) => pair.join(" ")),
    },
  };
}
