import { describe, expect, it } from 'vitest';
import { FirstTokenWatch } from './first-token-watch.ts';

const missMany = (watch: FirstTokenWatch, pool: string, times: number): (number | undefined)[] =>
  Array.from({ length: times }, () => watch.missed(pool)).filter((told) => told !== undefined);

describe('FirstTokenWatch', () => {
  it('tells once, after 50 responses of a pool without any', () => {
    const watch = new FirstTokenWatch();
    watch.expect('chat');
    expect(missMany(watch, 'chat', 49)).toEqual([]);
    watch.expect('chat');
    expect(missMany(watch, 'chat', 200)).toEqual([50]);
  });

  it('is silent where they are noticed, be it once, and where nobody wants them', () => {
    const watch = new FirstTokenWatch();
    watch.expect('chat');
    expect(missMany(watch, 'chat', 49)).toEqual([]);
    watch.noticed('chat');
    expect(missMany(watch, 'chat', 200)).toEqual([]);
    watch.noticed('batch');
    expect(missMany(watch, 'batch', 200)).toEqual([]);
  });

  it('keeps pools apart', () => {
    const watch = new FirstTokenWatch();
    watch.expect('chat');
    watch.expect('batch');
    watch.noticed('chat');
    expect(missMany(watch, 'batch', 60)).toEqual([50]);
  });
});
