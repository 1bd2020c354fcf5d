import { describe, expect, it } from 'vitest';
import type { ProcessingMode } from './messages.ts';
import { sharedMode } from './shared-modes.ts';

const members = ['request_header_mode', 'response_header_mode', 'request_body_mode', 'response_body_mode', 'request_trailer_mode', 'response_trailer_mode'] as const;
const none: Required<ProcessingMode> = {
  request_header_mode: 0,
  response_header_mode: 0,
  request_body_mode: 0,
  response_body_mode: 0,
  request_trailer_mode: 0,
  response_trailer_mode: 0,
};

describe('sharedMode', () => {
  it('gives equal modes as one object, and others as they are', () => {
    const all = [none, ...members.flatMap((member) => [1, 2].map((value) => ({ ...none, [member]: value })))];
    const shared = all.map((mode) => sharedMode({ ...mode }));
    expect(shared).toEqual(all);
    expect(new Set(shared).size).toBe(all.length);
    expect(all.map((mode) => sharedMode({ ...mode }))).toEqual(shared);
    all.forEach((mode, i) => expect(sharedMode({ ...mode })).toBe(shared[i]));
  });

  it('leaves alone what no version of the protocol has', () => {
    for (const odd of [8, -1, Number.NaN, 70_000]) {
      const mode = { ...none, request_body_mode: odd };
      expect(sharedMode(mode)).toBe(mode);
      expect(sharedMode({ ...mode })).not.toBe(mode);
    }
  });
});
