import type { RequestRecord } from './chat-client.ts';
import type { Scoreboard } from './scoreboard.ts';
import type { ServerKind, Stack } from './stack.ts';

/** Traffic and servers that every policy is shown on, and what is told of it. */
export interface Scenario {
  readonly servers: readonly ServerKind[];
  readonly timeScale: number;
  /** Further settings of Fairlead's pool. */
  readonly pool?: Readonly<Record<string, unknown>>;
  /** Requests for each policy, unless the command line says otherwise. */
  readonly requestsDefault: number;
  /** Presets to show beside the one asked for. */
  readonly rivals: readonly string[];
  /** Says in advance what is to be seen. */
  opening(requests: number): string;
  /** Sends the traffic, the same each time, and resolves when every request is over. */
  send(stack: Stack, requests: number, onRecord: (record: RequestRecord) => void): Promise<void>;
  /** The figures of a run under way, in a few words. */
  progress(board: Scoreboard): string;
  /** All runs side by side. */
  compare(boards: readonly (readonly [policy: string, Scoreboard])[]): string;
  /** What the run of the policy that was asked for should have shown and did not; absent: nothing is expected but that no request fails. */
  missed?(policy: string, board: Scoreboard): readonly string[];
}
