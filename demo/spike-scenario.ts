import { type ReserveTimes, watchReserve } from './reserve-watch.ts';
import { sendPlannedTraffic } from './planned-traffic.ts';
import type { Scenario } from './scenario.ts';
import { formatGrid, formatMs, type Scoreboard } from './scoreboard.ts';
import { planSpike, spikeFactor } from './spike-traffic.ts';

const seed = 1;
const usualPerSecond = 3;
const beforeMs = 5_000;
const afterMs = 10_000;
/** The reserve has to go without load at the end: so long is waited for it, in ms. */
const leaveMsMax = 40_000;
/** Time to first token that 99 of 100 requests have to stay below, in ms. */
const ttftP99MsMax = 3_000;
const serving = { name: 'serving', count: 6, profile: 'demo' } as const;
const reserve = { name: 'reserve', count: 2, profile: 'demo', standby: true } as const;
const phases = ['before', 'spike', 'after'] as const;

/** Eight times the load for a while: the reserve joins, and leaves again. */
export function spikeScenario({ spikeSeconds }: { readonly spikeSeconds: number }): Scenario {
  const shape = { beforeMs, spikeMs: spikeSeconds * 1_000, afterMs, usualPerSecond };
  const plan = planSpike(shape, seed);
  const reserves = new Map<string, readonly ReserveTimes[]>();
  return {
    servers: [serving, reserve],
    timeScale: 1,
    // Shorter than by default in all that a demo would have to wait for.
    pool: {
      prefillTokensPerMs: 15,
      slowStart: { durationMs: 2_000, initialShare: 0.2 },
      standby: { pressure: { waitMs: 100 }, forMs: 500, calm: { waitMs: 40 }, calmForMs: 4_000 },
    },
    requestsDefault: plan.length,
    rivals: ['round-robin'],
    opening: () =>
      [
        `Eight times the load for ${spikeSeconds} s: Envoy with envoy/envoy.yaml, Fairlead, and SIMULATED model servers (no GPU), ${serving.count} that serve and`,
        `${reserve.count} in reserve. ${plan.length} chats about documents of some 3 500 tokens for each policy, in an open loop: ${usualPerSecond} a second, then ${usualPerSecond * spikeFactor}, then ${usualPerSecond}.`,
        'Servers start anew, with empty caches, for each policy.',
      ].join('\n'),
    send: async (stack, _requests, onRecord) => {
      const watch = watchReserve(
        stack.endpoints.flatMap(({ address, standby }) => (standby ? address : [])),
        async () => new Map((await stack.fleet()).pools.flatMap(({ endpoints }) => endpoints.map(({ address, state }) => [address, state]))),
      );
      reserves.set(stack.policy, watch.times);
      try {
        await sendPlannedTraffic({ baseUrl: stack.url, plan, timeScale: 1, onRecord });
      } finally {
        await watch.end(leaveMsMax);
      }
    },
    progress: (board) => {
      const { ttftP50Ms, ttftP99Ms } = board.total();
      return `TTFT p50 ${formatMs(ttftP50Ms)}, p99 ${formatMs(ttftP99Ms)}`;
    },
    compare: (boards) =>
      [
        'The same traffic, side by side. TTFT: from the moment a request was due to its first token; p99 before, in and after the spike.',
        `The spike is from ${beforeMs / 1_000} to ${beforeMs / 1_000 + spikeSeconds} s after the run began (some requests to warm up come before), and so are the reserve's times.`,
        '',
        formatGrid(
          ['policy', 'failed', 'p99 before', 'spike p50', 'spike p99', 'p99 after', 'all p99', 'reserve joined at', 'and left at'],
          boards.map(([policy, board]) => toRow(policy, board, reserves.get(policy) ?? [])),
        ),
        '',
      ].join('\n'),
    missed: (policy, board) => missedLines(board, reserves.get(policy) ?? []),
  };
}

function toRow(policy: string, board: Scoreboard, times: readonly ReserveTimes[]): string[] {
  const [before, spike, after] = phases.map((phase) => board.ofKind(phase));
  return [
    policy,
    String(board.failures.length),
    formatMs(before?.ttftP99Ms),
    formatMs(spike?.ttftP50Ms),
    formatMs(spike?.ttftP99Ms),
    formatMs(after?.ttftP99Ms),
    formatMs(board.total().ttftP99Ms),
    times.map(({ joinedMs }) => formatSeconds(joinedMs)).join(', '),
    times.map(({ leftMs }) => formatSeconds(leftMs)).join(', '),
  ];
}

function formatSeconds(ms: number | undefined): string {
  return ms === undefined ? 'never' : `${(ms / 1_000).toFixed(1)} s`;
}

/** What a spike has to leave whole, and does not; failed requests are told elsewhere. */
export function missedLines(board: Scoreboard, times: readonly ReserveTimes[]): string[] {
  const { ttftP99Ms } = board.total();
  return [
    ...times.flatMap(({ address, joinedMs }) => (joinedMs === undefined ? `${address} of the reserve never joined` : [])),
    ...times.flatMap(({ address, joinedMs, leftMs }) => (joinedMs !== undefined && leftMs === undefined ? `${address} of the reserve joined and did not leave` : [])),
    ...(ttftP99Ms === undefined || ttftP99Ms > ttftP99MsMax ? [`TTFT p99 is ${formatMs(ttftP99Ms)}, over ${ttftP99MsMax} ms`] : []),
  ];
}
