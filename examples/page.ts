// `deno task page`: a page on which a small TransNormerLLM learns in the browser.
import { parseFlags, runCommand } from "./demo/flags.ts";
import { serveSite } from "./page/server.ts";

const FLAGS = {
  port: { kind: "count", help: "where to listen on 127.0.0.1; 0 takes a free one", fallback: 8080 },
} as const;

await runCommand(async () => {
  const { values: flags } = parseFlags(FLAGS, Deno.args, "deno task page [flags]");
  const server = await serveSite(flags.port);
  console.log(`http://127.0.0.1:${server.addr.port}/ (Ctrl-C ends it)`);
  await server.finished;
});
