import { readFileSync } from 'node:fs';
import { Command, InvalidArgumentError } from 'commander';
import type { z } from 'zod';
import { loadConfigFile } from '../config/load.ts';
import { describeProblems, type Problem, toPath } from '../config/problem.ts';
import { explain, formatExplanation } from '../core/explain.ts';
import { type ExplainedRequest, explainRequest, requestFileSchema } from './explain-request.ts';
import { fleetFileSchema } from './fleet-file.ts';

const help = `
The request file is JSON: {"path"?, "headers"?, "body"?, "clientAddress"?, "subset"?}. The fleet file is what GET /api/v1/fleet answers, or a part
of it; what it leaves out is idle and ready. Written by hand it may also say "cachedTokens" of an endpoint (of this request's prompt) and
"placedOn" of a pool (where this session was sent last).

Example:
  $ echo '{"headers": {"x-session-id": "s1"}, "body": {"model": "m", "messages": [{"role": "user", "content": "hello"}]}}' > request.json
  $ echo '{"pools": [{"name": "chat", "endpoints": [{"address": "127.0.0.1:18001", "state": "draining"}]}]}' > fleet.json
  $ fairlead explain --config fairlead.example.yaml --request request.json --fleet fleet.json
A running router's fleet: fairlead fleet --json > fleet.json`;

/** `fairlead explain`: shows how one request is decided, without a running service. */
export function explainCommand(): Command {
  return new Command('explain')
    .description('show how a request would be decided: facts, route, every endpoint with its scores or why it was left out')
    .requiredOption('-c, --config <file>', 'configuration file (YAML)')
    .requiredOption('-r, --request <file>', 'the request (JSON)')
    .option('-f, --fleet <file>', 'state of the fleet (JSON); left out: all endpoints are idle and ready')
    .option('--draw <number>', 'what breaks ties, from 0 to below 1', toDraw, 0.5)
    .option('--json', 'print it as JSON', false)
    .addHelpText('after', help)
    .action(({ config: file, request, fleet, draw, json }: { config: string; request: string; fleet?: string; draw: number; json: boolean }) => {
      const refuse = (named: string, problems: readonly Problem[]): void => {
        process.stderr.write(`fairlead: ${named} cannot be used:\n${describeProblems(problems)}\n`);
        process.exitCode = 1;
      };
      const outcome = loadConfigFile(file);
      if (!outcome.ok) {
        refuse(file, outcome.problems);
        return;
      }
      const asked = readJson(request, requestFileSchema);
      if (!asked.ok) {
        refuse(request, asked.problems);
        return;
      }
      const described = fleet === undefined ? undefined : readJson(fleet, fleetFileSchema);
      if (described?.ok === false) {
        refuse(fleet ?? '', described.problems);
        return;
      }
      const explained = explainRequest(outcome.config, asked.value, { fleetFile: described?.value, draw, wallMs: Date.now() });
      if (!explained.ok) {
        refuse(fleet ?? '', explained.problems);
        return;
      }
      const { affinity } = outcome.config.settings;
      const notes = explained.explained.notes.map(({ path, message }) => `${fleet ?? ''}: ${path}: ${message}`);
      if (affinity.secret === undefined && affinity.secretFile === undefined && explained.explained.account.sessionKey !== undefined) {
        notes.push(`${file}: affinity.secret: absent, so each start makes one up: sessions have another key and home every time`);
      }
      process.stdout.write(json ? `${JSON.stringify(toJson(explained.explained, notes), null, 2)}\n` : formatExplained(explained.explained, notes));
    });
}

function toDraw(text: string): number {
  const draw = Number(text);
  if (text.trim() === '' || !(draw >= 0 && draw < 1)) throw new InvalidArgumentError('Expected a number from 0 to below 1.');
  return draw;
}

/** Reads and checks a JSON file. */
function readJson<T extends z.ZodType>(file: string, schema: T): { readonly ok: true; readonly value: z.output<T> } | { readonly ok: false; readonly problems: readonly Problem[] } {
  let written: unknown;
  try {
    written = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    const { message } = error as Error;
    return { ok: false, problems: [{ path: '', message: error instanceof SyntaxError ? `not valid JSON: ${message}` : `cannot be read: ${message}` }] };
  }
  const parsed = schema.safeParse(written);
  if (parsed.success) return { ok: true, value: parsed.data };
  const problems = parsed.error.issues.flatMap((issue) =>
    issue.code === 'unrecognized_keys'
      ? issue.keys.map((key) => ({ path: toPath([...issue.path, key]), message: 'unknown field' }))
      : [{ path: toPath(issue.path), message: issue.message }],
  );
  return { ok: false, problems };
}

function toJson({ account, bodyRead, refused, routed, headers, status }: ExplainedRequest, notes: readonly string[]): object {
  return {
    outcome: refused === undefined ? 'route' : 'refuse',
    refused: refused ?? null,
    status: status ?? null,
    endpoint: routed?.addresses[0] ?? null,
    reason: routed?.decision.reason ?? null,
    fallbacks: routed?.addresses.slice(1) ?? [],
    bodyRead,
    headers,
    ...explain(account),
    notes,
  };
}

function formatExplained({ account, bodyRead, refused, routed, headers, status }: ExplainedRequest, notes: readonly string[]): string {
  const lines = [
    refused === undefined ? `routed to ${routed?.addresses[0] ?? '?'} in pool ${routed?.pool.name ?? '?'}: ${routed?.decision.reason ?? '?'}` : `refused with ${status ?? '?'}: ${refused}`,
    ...(routed === undefined || routed.addresses.length < 2 ? [] : [`then     ${routed.addresses.slice(1).join(', ')}`]),
    '',
    formatExplanation(explain(account)).trimEnd(),
    '',
    `decided on ${bodyRead ? 'headers and body' : 'headers alone'}; the answer sets:`,
    ...Object.entries(headers).map(([name, value]) => `  ${name}: ${value}`),
    ...notes.map((note) => `note: ${note}`),
  ];
  return `${lines.join('\n')}\n`;
}
