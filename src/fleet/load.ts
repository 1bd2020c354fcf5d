/** What one party knows to be in flight on one endpoint. */
export interface Load {
  readonly requests: number;
  readonly promptTokens: number;
  /** Requests without a first token, and their prompt tokens less what was believed to be cached. */
  readonly requestsWaiting: number;
  readonly uncachedTokensWaiting: number;
}

/** No load at all. */
export const noLoad: Load = { requests: 0, promptTokens: 0, requestsWaiting: 0, uncachedTokensWaiting: 0 };

/** What was ever sent somewhere; only differences mean anything. */
export interface Added {
  requests: number;
  promptTokens: number;
  uncachedTokens: number;
}
