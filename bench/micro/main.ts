// `npm run bench:micro`: the work of deciding, measured alone: reading the facts out of a body against `JSON.parse` of the same body, and
// `Router.route` (filters, scores, choice, reservation, account) among 5 to 10 000 endpoints. Prints tables, writes
// bench/results/micro.json. `--check` exits 1 where a limit is missed; `--only scan|route` measures one half.
import path from 'node:path';
import { parseArgs } from 'node:util';
import { describeMachine, resultsFolder, writeResults } from '../result-file.ts';
import { createBodies } from './bodies.ts';
import { createFleetUnderLoad } from './fleet-under-load.ts';
import { measureInTurns } from './measure.ts';
import { readFacts } from './scanning.ts';

const { values: given } = parseArgs({
  options: {
    check: { type: 'boolean', default: false },
    only: { type: 'string' },
    sizes: { type: 'string', default: '5,100,1000,10000' },
    policies: { type: 'string', default: 'sticky,session-affinity,prefix-affinity,round-robin,least-requests,least-tokens,power-of-two,weighted-round-robin' },
    rounds: { type: 'string', default: '9' },
    'round-ms': { type: 'string', default: '60' },
    out: { type: 'string', default: path.join(resultsFolder, 'micro.json') },
  },
});
const turns = { rounds: Number(given.rounds), roundMs: Number(given['round-ms']) };

/** Most that deciding among 1000 endpoints may take, over deciding among 5. */
const routeRatioMax = 20;
const fleetSizes = given.sizes.split(',').map(Number);
const policies = given.policies.split(',');
const limitedPolicies = new Set(['sticky', 'session-affinity', 'round-robin', 'least-requests']);

interface ScanRow {
  readonly body: string;
  readonly bytes: number;
  readonly parseUs: number;
  readonly bufferedUs: number;
  readonly chunkedUs: number;
  readonly bufferedOfParse: number;
  readonly chunkedOfParse: number;
  readonly limit: number | null;
}

function measureScans(): ScanRow[] {
  return createBodies().map(({ name, body, parseShareMax }) => {
    let sink: unknown;
    const times = measureInTurns(
      [
        { name: 'parse', run: () => void (sink = JSON.parse(body.toString('utf8'))) },
        { name: 'buffered', run: () => void (sink = readFacts(body, 'buffered')) },
        { name: 'chunked', run: () => void (sink = readFacts(body, 'chunked')) },
      ],
      turns,
    );
    if (sink === undefined) throw new Error('nothing was measured');
    const [parseUs, bufferedUs, chunkedUs] = [times.of('parse'), times.of('buffered'), times.of('chunked')];
    const shares = { bufferedOfParse: times.ratio('buffered', 'parse'), chunkedOfParse: times.ratio('chunked', 'parse') };
    return { body: name, bytes: body.length, parseUs, bufferedUs, chunkedUs, ...shares, limit: parseShareMax ?? null };
  });
}

interface RouteRow {
  readonly policy: string;
  readonly endpoints: number;
  readonly routeUs: number;
  /** Over the same policy among the smallest fleet. */
  readonly ofSmallest: number;
  readonly limit: number | null;
}

function measureRoutes(): RouteRow[] {
  return policies.flatMap((policy) => {
    const times = measureInTurns(
      fleetSizes.map((size) => {
        const bed = createFleetUnderLoad(size, policy);
        for (let i = 0; i < 200; i += 1) {
          bed.routeNext();
          bed.endOldest();
        }
        return { name: String(size), run: () => void bed.routeNext(), after: () => bed.endOldest() };
      }),
      turns,
    );
    const smallest = String(fleetSizes[0]);
    return fleetSizes.map((endpoints) => {
      const [routeUs, ofSmallest] = [times.of(String(endpoints)), times.ratio(String(endpoints), smallest)];
      return { policy, endpoints, routeUs, ofSmallest, limit: endpoints === 1_000 && limitedPolicies.has(policy) ? routeRatioMax : null };
    });
  });
}

const round = (value: number): number => Number(value.toPrecision(3));
const scans = given.only === 'route' ? [] : measureScans();
const routes = given.only === 'scan' ? [] : measureRoutes();
if (scans.length > 0) {
  console.table(
    scans.map((row) => ({
      body: row.body,
      'JSON.parse, µs': round(row.parseUs),
      'buffered, µs': round(row.bufferedUs),
      '× parse': round(row.bufferedOfParse),
      'in chunks, µs': round(row.chunkedUs),
      '× parse ': round(row.chunkedOfParse),
      limit: row.limit ?? '',
    })),
  );
}
if (routes.length > 0) {
  console.table(
    policies.map((policy) => {
      const of = (size: number): RouteRow | undefined => routes.find((row) => row.policy === policy && row.endpoints === size);
      return {
        policy,
        ...Object.fromEntries(fleetSizes.map((size) => [`${size}, µs`, round(of(size)?.routeUs ?? NaN)])),
        '1000 over 5': round(of(1_000)?.ofSmallest ?? NaN),
        limit: of(1_000)?.limit ?? '',
      };
    }),
  );
}
await writeResults(given.out, { time: new Date().toISOString(), machine: describeMachine(), scans, routes });

const missed = [
  ...scans.flatMap(({ body, bufferedOfParse, chunkedOfParse, limit }) =>
    limit !== null && Math.max(bufferedOfParse, chunkedOfParse) > limit ? [`${body}: ${round(Math.max(bufferedOfParse, chunkedOfParse))} × JSON.parse, at most ${limit}`] : [],
  ),
  ...routes.flatMap(({ policy, endpoints, ofSmallest, limit }) =>
    limit !== null && ofSmallest > limit ? [`${policy} among ${endpoints}: ${round(ofSmallest)} × that among ${fleetSizes[0] ?? 0}, at most ${limit}`] : [],
  ),
];
for (const line of missed) console.error(`missed: ${line}`);
if (given.check && missed.length > 0) process.exitCode = 1;
