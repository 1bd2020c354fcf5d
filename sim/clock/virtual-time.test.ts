import { describe, expect, it } from 'vitest';
import { VirtualTime } from './virtual-time.ts';

describe('VirtualTime', () => {
  it('stands still, then goes to what is due', () => {
    const time = new VirtualTime();
    const seen: [string, number][] = [];
    const note = (name: string) => () => void seen.push([name, time.nowMs()]);
    time.after(10, note('ten'));
    time.at(4, () => {
      note('four')();
      time.after(2, note('six'));
      time.at(1, note('the past is now'));
    });
    expect(time.nowMs()).toBe(0);
    while (time.step());
    expect(seen).toEqual([['four', 4], ['the past is now', 4], ['six', 6], ['ten', 10]]);
  });
});
