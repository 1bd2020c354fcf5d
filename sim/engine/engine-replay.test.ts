import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { gunzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { Engine } from './engine.ts';
import { engineProfiles } from './engine-profiles.ts';

// The calibration: requests of the public Mooncake traces dealt to the workers in turn, against NVIDIA Dynamo's own replay of them.
const folder = process.env['FAIRLEAD_TRACES'] ?? path.resolve(import.meta.dirname, '../../../shared/traces');
const file = (trace: string): string => path.join(folder, `mooncake-${trace}.jsonl.gz`);

interface TraceLine {
  readonly timestamp: number;
  readonly input_length: number;
  readonly output_length: number;
  readonly hash_ids: number[];
}

function replay(trace: string, workers: number, speed: number): { meanMs: number; p99Ms: number; reuse: number; requests: number } {
  const lines = gunzipSync(readFileSync(file(trace))).toString('utf8').trim().split('\n');
  const engines = Array.from({ length: workers }, () => new Engine(engineProfiles['dynamo-mocker']));
  lines.forEach((line, id) => {
    const { timestamp, input_length: promptTokens, output_length: outputTokens, hash_ids: blockHashes } = JSON.parse(line) as TraceLine;
    engines[id % workers]!.submit({ id, promptTokens, outputTokens, blockHashes }, timestamp / speed);
  });
  const ttfts: number[] = [];
  let cached = 0;
  let prompt = 0;
  for (const engine of engines) {
    for (const event of engine.advance(Number.MAX_SAFE_INTEGER)) {
      if (event.kind !== 'done') continue;
      ttfts.push(event.firstTokenMs - event.submittedMs);
      cached += event.cachedTokens;
      prompt += event.promptTokens;
    }
  }
  ttfts.sort((a, b) => a - b);
  const meanMs = ttfts.reduce((sum, ms) => sum + ms, 0) / ttfts.length;
  return { meanMs, p99Ms: ttfts[Math.floor(ttfts.length * 0.99)]!, reuse: cached / prompt, requests: ttfts.length };
}

describe.skipIf(!existsSync(file('conversation')))('round robin over the Mooncake traces (skipped where they are not there)', () => {
  it.each([
    ['conversation', 10, 1, 12_031, 272, 1901, 0.107],
    ['conversation', 4, 4, 12_031, 1663, 6612, 0.133],
    ['synthetic', 4, 1, 3993, 294, 1589, 0.262],
    ['synthetic', 10, 8, 3993, 2004, 8183, 0.171],
  ])('%s, %i workers, speed %i: as Dynamo has it, within two in a hundred', (trace, workers, speed, requests, meanMs, p99Ms, reuse) => {
    const result = replay(trace, workers, speed);
    expect(result.requests).toBe(requests);
    expect(Math.abs(result.meanMs / meanMs - 1)).toBeLessThan(0.02);
    expect(Math.abs(result.p99Ms / p99Ms - 1)).toBeLessThan(0.02);
    expect(Math.abs(result.reuse - reuse)).toBeLessThan(0.005);
  });
});
