import type { Config } from '../../config/schema.ts';
import type { FileContents } from '../../config/files.ts';
import type { Problem } from '../../config/problem.ts';
import type { CappedEndpoint } from '../../router/ports.ts';
import type { ReloadCause } from '../../router/reload-events.ts';
import type { StoredPlacement } from '../../router/shared-exchange.ts';
import type { MetricJson } from '../../telemetry/metric-totals.ts';

/** A configuration as it can go to a thread: what was read, of which each compiles its own policies and routes. */
export interface ConfigText {
  readonly settings: Config;
  readonly files: FileContents;
  /** One for all, also where none is configured and it was made up. */
  readonly affinitySecret: string;
}

/** What a worker thread starts with. */
export interface WorkerStart {
  /** Number of the worker, from 0. */
  readonly worker: number;
  readonly routerId: string;
  /** What the ids of all routers of this process begin with. */
  readonly groupId: string;
  /** Address to serve gRPC at. */
  readonly listen: string;
  readonly config: ConfigText;
  /** Absolute path of the configuration. */
  readonly file: string;
  readonly warnings: readonly Problem[];
}

/** An HTTP request or answer without its connection. */
export interface PlainRequest {
  readonly method: string;
  /** Path and query. */
  readonly path: string;
  readonly headers: readonly (readonly [string, string])[];
  readonly body: string | undefined;
}

export interface PlainAnswer {
  readonly status: number;
  readonly headers: readonly (readonly [string, string])[];
  readonly body: string;
}

/** Questions of the supervisor, by kind, with what is asked and what is answered. */
export interface Questions {
  http: { readonly asked: PlainRequest; readonly answered: PlainAnswer };
  metrics: { readonly asked: undefined; readonly answered: readonly MetricJson[] };
  /** Whether the thread still gets round to answering. */
  ping: { readonly asked: undefined; readonly answered: undefined };
}

export type Question = { readonly [K in keyof Questions]: { readonly kind: 'ask'; readonly id: number; readonly what: K; readonly asked: Questions[K]['asked'] } }[keyof Questions];

/** From the supervisor to a worker. */
export type ToWorker =
  | Question
  | { readonly kind: 'reload'; readonly cause: ReloadCause }
  | { readonly kind: 'reopen-logs' }
  | { readonly kind: 'drain' }
  | { readonly kind: 'cap-answer'; readonly id: number; readonly taken: string | undefined }
  /** Sessions that live elsewhere than at their home, oldest first. */
  | { readonly kind: 'placements'; readonly pool: string; readonly placements: readonly StoredPlacement[] };

/** From a worker to the supervisor. */
export type FromWorker =
  | { readonly kind: 'serving'; readonly grpcPort: number }
  /** It could not start, for a reason that people can do something about. */
  | { readonly kind: 'failed'; readonly message: string }
  | { readonly kind: 'answer'; readonly id: number; readonly answered: unknown }
  /** It could not answer. */
  | { readonly kind: 'no-answer'; readonly id: number; readonly message: string }
  | { readonly kind: 'drained' }
  /** It goes by this configuration now. */
  | { readonly kind: 'configured'; readonly config: ConfigText }
  | { readonly kind: 'cap-ask'; readonly id: number; readonly pool: string; readonly lease: string; readonly endpoints: readonly CappedEndpoint[] }
  | { readonly kind: 'cap-release'; readonly pool: string; readonly address: string; readonly lease: string }
  | { readonly kind: 'store-placements'; readonly pool: string; readonly placements: readonly StoredPlacement[] }
  | { readonly kind: 'ask-placements'; readonly pools: readonly string[] };

/** What threads post on the channel that all workers hear. */
export type Broadcast =
  /** To all: a message of a pool. */
  | { readonly pool: string; readonly text: string }
  /** To one router: completion reports. */
  | { readonly to: string; readonly text: string };
