/**
 * The files of the page, bundled for browsers.
 */
import roman from "@fontsource-variable/source-serif-4/files/source-serif-4-latin-wght-normal.woff2" with {
  type: "bytes",
};
import italic from "@fontsource-variable/source-serif-4/files/source-serif-4-latin-wght-italic.woff2" with {
  type: "bytes",
};
import * as esbuild from "esbuild";
import html from "./index.html" with { type: "text" };
import sonnets from "./sonnets.txt" with { type: "text" };
import style from "./style.css" with { type: "text" };

/** A file: its media type and what is in it. */
export interface SiteFile {
  readonly type: string;
  readonly content: string | Uint8Array<ArrayBuffer>;
}

/** All files of the page, by their path. */
export async function buildSite(): Promise<ReadonlyMap<string, SiteFile>> {
  const scripts = await bundle(["page", "worker"]);
  return new Map<string, SiteFile>([
    ["/", { type: "text/html", content: html }],
    ["/style.css", { type: "text/css", content: style }],
    ["/sonnets.txt", { type: "text/plain", content: sonnets }],
    ["/roman.woff2", { type: "font/woff2", content: roman }],
    ["/italic.woff2", { type: "font/woff2", content: italic }],
    ...scripts.map(({ name, content }) =>
      [`/${name}.js`, { type: "text/javascript", content }] as const
    ),
  ]);
}

async function bundle(names: string[]): Promise<{ name: string; content: string }[]> {
  try {
    const { outputFiles } = await esbuild.build({
      entryPoints: names.map((name) => new URL(`${name}.ts`, import.meta.url).pathname),
      bundle: true,
      minify: true,
      write: false,
      outdir: "/",
      format: "esm",
      platform: "browser",
      // Not every browser with WebGPU knows `using` yet, so it is written out.
      target: "es2022",
      // Files are read and written with node:fs, which the page never asks for.
      external: ["node:*"],
      logLevel: "silent",
    });
    return outputFiles.map((file, i) => ({ name: names[i], content: file.text }));
  } finally {
    await esbuild.stop();
  }
}
