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
