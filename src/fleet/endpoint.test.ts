import { describe, expect, it } from 'vitest';
import type { EngineMetrics } from '../core/fleet-snapshot.ts';
import { hashName } from '../core/hash.ts';
import { type EndpointDefinition, FleetEndpoint } from './endpoint.ts';

const define = (address: string): EndpointDefinition => ({ address, weight: 2, labels: { gpu: 'h100' }, requestsMax: 4 });

describe('FleetEndpoint', () => {
  it('is what was defined, ready and idle', () => {
    const endpoint = new FleetEndpoint(define('10.0.0.1:80'));
    const { requests, promptTokens, requestsWaiting, uncachedTokensWaiting, headTokens } = endpoint;
    expect(endpoint).toMatchObject({ ...define('10.0.0.1:80'), hash: hashName('10.0.0.1:80'), state: 'ready' });
    expect([requests, promptTokens, requestsWaiting, uncachedTokensWaiting, headTokens]).toEqual([0, 0, 0, 0, 0]);
  });

  it('carries the sum of own and foreign load', () => {
    const endpoint = new FleetEndpoint(define('10.0.0.1:80'));
    Object.assign(endpoint.own, { requests: 2, promptTokens: 10, requestsWaiting: 1, uncachedTokensWaiting: 5 });
    Object.assign(endpoint.foreign, { requests: 20, promptTokens: 300, requestsWaiting: 10, uncachedTokensWaiting: 200 });
    expect([endpoint.requests, endpoint.promptTokens, endpoint.requestsWaiting, endpoint.uncachedTokensWaiting]).toEqual([22, 310, 11, 205]);
  });

  it('keeps to its share of the limit while the other routers cannot be asked', () => {
    const places = (routers: number, rank: number, requestsMax: number): number => {
      const endpoint = new FleetEndpoint({ ...define('10.0.0.1:80'), requestsMax });
      endpoint.shareCap({ routers, rank });
      while (!endpoint.full) endpoint.own.requests += 1;
      return endpoint.own.requests;
    };
    expect([0, 1, 2].map((rank) => places(3, rank, 10))).toEqual([4, 3, 3]);
    expect([0, 1, 2].map((rank) => places(3, rank, 2))).toEqual([1, 1, 0]);
  });

  it('shares no load with any other', () => {
    const [one, other] = [new FleetEndpoint(define('10.0.0.1:80')), new FleetEndpoint(define('10.0.0.2:80'))];
    one.own.requests += 1;
    expect(other.requests).toBe(0);
  });
});

describe('kvTokensMax', () => {
  const metrics = (kvTokensMax: number | undefined): EngineMetrics => ({
    scrapedMs: 0,
    requestsRunning: 1,
    requestsQueued: 0,
    kvUsage: 0.5,
    kvTokensMax,
    adapters: undefined,
    adaptersMax: undefined,
  });

  it('is what the server told last, else what is configured; metrics that are gone or say nothing change nothing', () => {
    const endpoint = new FleetEndpoint({ address: '10.0.0.1:80', weight: 1, labels: {}, requestsMax: undefined, kvTokensMax: 1_000 });
    expect(endpoint.kvTokensMax).toBe(1_000);
    for (const useless of [undefined, metrics(undefined), metrics(0)]) {
      endpoint.metrics = useless;
      expect(endpoint.kvTokensMax).toBe(1_000);
    }
    endpoint.metrics = metrics(5_000);
    expect(endpoint.kvTokensMax).toBe(5_000);
    endpoint.metrics = undefined;
    expect(endpoint.kvTokensMax).toBe(5_000);
  });
});
