import { sendChatTraffic } from './chat-traffic.ts';
import type { Scenario } from './scenario.ts';
import { formatMs, formatShare } from './scoreboard.ts';

const concurrency = 16;
const turnsPerSession = 8;

/** Chats over five equal servers whose memory holds few of them. */
export const chatScenario: Scenario = {
  servers: [{ count: 5, profile: 'demo' }],
  timeScale: 1,
  requestsDefault: 400,
  rivals: ['round-robin'],
  opening: (requests) => `Five SIMULATED model servers (no GPU), Envoy with envoy/envoy.yaml, Fairlead. ${requests} chat requests for each policy.`,
  send: (stack, requests, onRecord) => sendChatTraffic({ baseUrl: stack.url, requests, concurrency, turnsPerSession, onRecord }),
  progress: (board) => {
    const { ttftP50Ms, ttftP99Ms, cachedShare } = board.total();
    return `cached ${formatShare(cachedShare)}, TTFT p50 ${formatMs(ttftP50Ms)}, p99 ${formatMs(ttftP99Ms)}`;
  },
  compare: (boards) => {
    const rows = boards.map(([policy, board]) => {
      const { cachedShare, ttftP50Ms, ttftP99Ms } = board.total();
      return `  ${policy.padEnd(18)} cached ${formatShare(cachedShare).padStart(5)}   TTFT p50 ${formatMs(ttftP50Ms).padStart(8)}   p99 ${formatMs(ttftP99Ms).padStart(8)}`;
    });
    return `The same traffic, side by side:\n${rows.join('\n')}\n`;
  },
};
