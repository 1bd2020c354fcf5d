import type { RequestTemplate } from './requests.ts';

/** One run of load over HTTP/1.1. */
export interface LoadJob {
  /** `http://127.0.0.1:PORT` */
  readonly origin: string;
  readonly pathname: string;
  readonly requests: readonly RequestTemplate[];
  readonly connections: number;
  readonly durationMs: number;
  /** Mean pause of each connection after an answer, exponentially distributed; 0: none, as fast as answers come. */
  readonly thinkMs: number;
}

export interface LoadResult {
  readonly requests: number;
  readonly seconds: number;
  /** Answers of 400 and above, and connections that failed. */
  readonly failures: number;
  /** From sending a request to the end of its answer, in microseconds. */
  readonly p50Us: number;
  readonly p99Us: number;
}
