import { describe, expect, it } from 'vitest';
import { contextTokensMax, decodeMs, engineProfiles, prefillMs } from './engine-profiles.ts';

const { demo, 'dynamo-mocker': dynamoMocker } = engineProfiles;

describe('dynamo-mocker', () => {
  it.each([
    [0, 0],
    [1, 16.51660386],
    [512, 24.38570],
    [8192, 169.136885],
  ])('prefills %i tokens in %f ms', (tokens, ms) => {
    expect(prefillMs(dynamoMocker, tokens)).toBeCloseTo(ms, 4);
  });

  it.each([
    [0, 5.74],
    [1_499_904, 26.31], // half a memory: 5.74 + 27.005 − 6.435
    [2_999_808, 34.01],
  ])('decodes with %i tokens of context in %f ms', (tokens, ms) => {
    expect(decodeMs(dynamoMocker, tokens)).toBeCloseTo(ms, 9);
  });

  it('holds 2 999 808 tokens, and decoding gets no faster beyond', () => {
    expect(contextTokensMax(dynamoMocker)).toBe(2_999_808);
    expect(decodeMs(dynamoMocker, 6_000_000)).toBe(decodeMs(dynamoMocker, 2_999_808));
  });
});

describe('demo', () => {
  it('is the small GPU it claims to be', () => {
    expect(prefillMs(demo, 2000)).toBeCloseTo(150, 6);
    expect(decodeMs(demo, 0)).toBeGreaterThan(3.5);
    expect(decodeMs(demo, contextTokensMax(demo))).toBeLessThan(5.5);
    expect(contextTokensMax(demo)).toBe(60_000);
  });
});

describe('profiles by the roofline', () => {
  it.each([
    // 2·8.03e9 operations a token at half of 989.4 TFLOPS; 16.06 GB of weights at three quarters of 3.35 TB/s; 53.9 GB of KV memory.
    ['h100-vllm', 1_000, 2 + 32.464 + 0.53, 6.392 + 2, 411_000],
    ['a10-vllm', 1_000, 2 + 256.96 + 4.194, 35.689 + 2, 27_000],
  ] as const)('%s: %i tokens in %f ms, an empty decode step in %f ms', (name, tokens, prefill, decode, memory) => {
    const profile = engineProfiles[name];
    expect(prefillMs(profile, tokens)).toBeCloseTo(prefill, 1);
    expect(decodeMs(profile, 0)).toBeCloseTo(decode, 2);
    expect(Math.abs(contextTokensMax(profile) / memory - 1)).toBeLessThan(0.02);
  });

  it('slow-gpu is some three times slower than what it stands beside, and holds less', () => {
    const slow = engineProfiles['slow-gpu'];
    expect(prefillMs(slow, 8_192) / prefillMs(dynamoMocker, 8_192)).toBeCloseTo(2.733, 2);
    expect(decodeMs(slow, 0) / decodeMs(dynamoMocker, 0)).toBeCloseTo(3.877, 2);
    expect(contextTokensMax(slow)).toBeLessThan(contextTokensMax(dynamoMocker));
  });
});

describe('every profile', () => {
  it.each(Object.entries(engineProfiles))('%s: carries its name and its source, and decoding slows as context grows', (name, profile) => {
    expect(profile.name).toBe(name);
    expect(profile.source).not.toBe('');
    const full = contextTokensMax(profile);
    for (let tenth = 0; tenth < 10; tenth += 1) {
      expect(decodeMs(profile, (full * (tenth + 1)) / 10)).toBeGreaterThan(decodeMs(profile, (full * tenth) / 10));
    }
  });
});
