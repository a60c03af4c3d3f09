/**
 * Serves the page to this machine alone.
 */
import { buildSite } from "./site.ts";

/** Bundles the page and serves it on 127.0.0.1. Port 0 takes a free one. */
export async function serveSite(port: number): Promise<Deno.HttpServer<Deno.NetAddr>> {
  const site = await buildSite();
  return Deno.serve({ port, hostname: "127.0.0.1", onListen: () => {} }, ({ url }) => {
    const file = site.get(new URL(url).pathname);
    if (file === undefined) return new Response("not found\n", { status: 404 });
    return new Response(file.content, {
      headers: {
        "content-type": `${file.type}; charset=utf-8`,
        "cache-control": "no-cache",
        // An isolated page has a fine clock and shared memory.
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-embedder-policy": "require-corp",
      },
    });
  });
}
