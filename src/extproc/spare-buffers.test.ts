import { describe, expect, it } from 'vitest';
import { SpareBuffers } from './spare-buffers.ts';

describe('SpareBuffers', () => {
  it.each([0, 1, 16_384, 16_385, 262_144, 4_194_304, 4_194_305, 50_000_000])('lends at least what is asked for: %i', (bytes) => {
    expect(new SpareBuffers().lend(bytes).length).toBeGreaterThanOrEqual(bytes);
  });

  it('lends what came back, to one at a time', () => {
    const buffers = new SpareBuffers();
    const first = buffers.lend(200_000);
    buffers.takeBack(first);
    expect(buffers.lend(250_000)).toBe(first);
    expect(buffers.lend(250_000)).not.toBe(first);
  });

  it('lends no smaller one, and does not spend a large one on little', () => {
    const buffers = new SpareBuffers();
    for (const bytes of [16_384, 4_194_304]) buffers.takeBack(buffers.lend(bytes));
    expect(buffers.lend(20_000)).toHaveLength(32_768);
  });

  it('keeps neither one that is larger than prompts are, nor more than a few MB', () => {
    const buffers = new SpareBuffers();
    const large = buffers.lend(5_000_000);
    buffers.takeBack(large);
    expect(buffers.lend(5_000_000)).not.toBe(large);
    const many = Array.from({ length: 100 }, () => buffers.lend(262_144));
    for (const buffer of many) buffers.takeBack(buffer);
    const again = Array.from({ length: 100 }, () => buffers.lend(262_144));
    expect(again.filter((buffer) => many.includes(buffer))).toHaveLength(32);
  });
});
