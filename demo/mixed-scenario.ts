import { planMixedTraffic } from './mixed-traffic.ts';
import { sendPlannedTraffic } from './planned-traffic.ts';
import type { Scenario } from './scenario.ts';
import { formatGrid, formatMs, formatShare, type Scoreboard } from './scoreboard.ts';
import type { ServerKind } from './stack.ts';

const seed = 1;
/** So that a demo sees twice the traffic while people wait. More would blow up what Envoy, Fairlead and the client add. */
const timeScale = 2;
/** An invented pair: the calibrated profile, and a GPU of a third of its speed. */
const slowFactor = 3;
/** What goes unmentioned of how late the client itself was, p99. */
const lateMsMax = 100;
/** In proportion to speed; `sticky` takes 1 for about the speed of this profile. */
const fast = { name: 'fast', count: 2, profile: 'dynamo-mocker', weight: 1 } as const satisfies ServerKind;
const slow = { name: 'slow', count: 3, profile: 'dynamo-mocker', slowFactor, weight: 0.33 } as const satisfies ServerKind;

/** Short chats and long documents over two kinds of GPUs. `weighted`: whether Fairlead is told how fast each is. */
export function mixedScenario({ weighted }: { weighted: boolean }): Scenario {
  const told = weighted ? `Fairlead knows: weights ${fast.weight} and ${slow.weight}` : 'Fairlead is not told';
  return {
    servers: [fast, slow].map(({ weight, ...kind }) => (weighted ? { ...kind, weight } : kind)),
    timeScale,
    requestsDefault: 320,
    rivals: ['sticky', 'round-robin', 'least-requests', 'session-affinity'],
    opening: (requests) =>
      [
        'Short chats beside documents of 30 000 tokens: Envoy with envoy/envoy.yaml, Fairlead, and SIMULATED model servers (no GPU),',
        `${fast.count} fast and ${slow.count} that take ${slowFactor} times as long (${told}). ${requests} requests for each policy in an open loop:`,
        'the same prompts at the same moments, however long the answers take. Servers start anew, with empty caches, for each policy;',
        `their time runs ${timeScale} times as fast as the clock, and all times below are in it.`,
      ].join('\n'),
    send: (stack, requests, onRecord) => sendPlannedTraffic({ baseUrl: stack.url, plan: planMixedTraffic(requests, seed), timeScale, onRecord }),
    progress: (board) => {
      const { ttftP50Ms, ttftP99Ms } = board.ofKind('short');
      return `cached ${formatShare(board.total().cachedShare)}, short TTFT p50 ${formatMs(ttftP50Ms)}, p99 ${formatMs(ttftP99Ms)}`;
    },
    compare: (boards) =>
      [
        'The same traffic, side by side. TTFT: from the moment a request was due to its first token; short prompts and documents apart.',
        'Cached: prompt tokens found in a cache. By fast: of the prompt tokens that had to be computed, those that fast servers computed.',
        '',
        formatGrid(['policy', 'short p50', 'short p99', 'document p50', 'document p99', 'cached', 'by fast'], boards.map(toRow)),
        '',
        ...busyWarning(boards),
      ].join('\n'),
  };
}

function toRow([policy, board]: readonly [string, Scoreboard]): string[] {
  const times = [board.ofKind('short'), board.ofKind('document')].flatMap(({ ttftP50Ms, ttftP99Ms }) => [formatMs(ttftP50Ms), formatMs(ttftP99Ms)]);
  const all = board.total();
  const byFast = all.computedTokens === 0 ? 0 : board.byServers(fast.name).computedTokens / all.computedTokens;
  return [policy, ...times, formatShare(all.cachedShare), formatShare(byFast)];
}

/** Where the machine was too busy for the plan: says so. */
function busyWarning(boards: readonly (readonly [string, Scoreboard])[]): string[] {
  const late = boards.map(([policy, board]) => [policy, board.total().lateP99Ms ?? 0] as const).filter(([, ms]) => ms > lateMsMax);
  if (late.length === 0) return [];
  const whose = late.map(([policy, ms]) => `${policy} ${formatMs(ms)}`).join(', ');
  return [`This machine was busy: requests left late by up to (p99) ${whose}. That is in the times above.\n`];
}
