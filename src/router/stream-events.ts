/** How an ext_proc stream ended, as the processor saw it. */
export type StreamEnding = 'completed' | 'let-go' | 'cancelled' | 'protocol-error' | 'internal-error';

/** The phase that brought the facts by which a request was decided. */
export type DecidedPhase = 'headers' | 'body-early' | 'body' | 'deadline';

/** What became of a session cookie: set on a response, not set since the response's headers never came, or found wrong in a request. */
export type SessionCookieOutcome = 'set' | 'unsent' | 'invalid';

/** What happens on ext_proc and access-log streams, for metrics and logs. Returns at once, never throws. */
export interface StreamEvents {
  streamOpened(): void;
  streamClosed(ending: StreamEnding): void;
  /** A message arrived, by its field name, such as `request_headers`. */
  message(phase: string): void;
  /** A final answer went out. `sinceHeadersMs`: since the first message of the stream. */
  answered(phase: DecidedPhase, sinceHeadersMs: number): void;
  /** A body could not be used for its facts: `malformed`, `truncated`, `over-limit`, `compressed`, `not-json`. */
  bodyUnusable(cause: string): void;
  /** A session cookie was dealt with. */
  sessionCookie(outcome: SessionCookieOutcome): void;
  /** An exception at the stream boundary: a bug. */
  failed(error: unknown): void;
  /** Access-log records taken in, and how many of them named no lease. */
  accessLogRecords(count: number, withoutLease: number): void;
}
