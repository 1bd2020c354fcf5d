import { readdirSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import type { RedisClient } from '../../src/redis/connection.ts';
import { createKeys } from '../../src/redis/keys.ts';
import { readScript, scriptFiles, Scripts } from '../../src/redis/scripts.ts';

const folder = path.resolve(import.meta.dirname, '../../src/redis/scripts');
type ScriptName = (typeof scriptFiles)[number];

/** What a script's header says that it takes: single keys and arguments, and from which place on any number may follow. */
interface Header {
  readonly keys: number;
  readonly keysOpen: boolean;
  readonly arguments: number;
  readonly argumentsOpen: boolean;
  readonly returns: string | undefined;
}

function readHeader(name: ScriptName): Header {
  const lines = readScript(name).split('\n');
  const comments = lines.slice(0, lines.findIndex((line) => !line.startsWith('--')));
  const numbered = (of: 'KEYS' | 'ARGV'): number => comments.filter((line) => new RegExp(`^-- ${of}\\[\\d+\\] +\\S`).test(line)).length;
  const open = (of: 'KEYS' | 'ARGV'): boolean => comments.some((line) => new RegExp(`^-- ${of}\\[(?:\\d+…|i|\\d+\\+i)\\] +\\S`).test(line));
  return {
    keys: numbered('KEYS'),
    keysOpen: open('KEYS'),
    arguments: numbered('ARGV'),
    argumentsOpen: open('ARGV'),
    returns: comments.find((line) => line.startsWith('-- Returns '))?.slice('-- Returns '.length),
  };
}

interface Call {
  readonly name: ScriptName;
  readonly keys: readonly string[];
  readonly args: readonly unknown[];
}

/** A client that notes what scripts are called with and answers what it is told to. */
function noting(answer: unknown): { readonly scripts: Scripts; readonly calls: Call[] } {
  const calls: Call[] = [];
  const client: Record<string, unknown> = {};
  client['defineCommand'] = (name: ScriptName) => {
    client[name] = async (keyCount: number, ...rest: string[]) => {
      calls.push({ name, keys: rest.slice(0, keyCount), args: rest.slice(keyCount) });
      return answer;
    };
  };
  return { scripts: new Scripts(client as unknown as RedisClient, createKeys('fairlead')), calls };
}

const endpoints = [
  { address: '10.0.0.1:80', requestsMax: 2 },
  { address: '10.0.0.2:80', requestsMax: 3 },
];
/** Each wrapper, called as the exchange calls it. */
const wrappers: Readonly<Record<ScriptName, (scripts: Scripts) => Promise<unknown>>> = {
  'check-access': (scripts) => scripts.checkAccess('chat', 'a'),
  'publish-snapshot': (scripts) => scripts.publishSnapshot('chat', 'a', '[]', 300, 2_000),
  'store-placements': (scripts) => scripts.storePlacements('chat', [{ keyId: 'f'.repeat(32), address: undefined }]),
  'acquire-cap': (scripts) => scripts.acquireCap('chat', 'a.1', endpoints, 10_000),
  'renew-cap': (scripts) => scripts.renewCap('chat', '10.0.0.1:80', ['a.1', 'a.2'], 10_000),
  'release-cap': (scripts) => scripts.releaseCap('chat', '10.0.0.1:80', ['a.1', 'a.2']),
};

describe('scripts', () => {
  it('each file has a wrapper and each wrapper a file', () => {
    const files = readdirSync(folder).map((file) => path.basename(file, '.lua'));
    expect(files.sort()).toEqual([...scriptFiles].sort());
  });

  for (const name of scriptFiles) {
    describe(name, () => {
      const header = readHeader(name);
      const text = readScript(name);

      it('opens with what it does, its keys, its arguments and what it returns', () => {
        expect(text.split('\n')[0]).toMatch(/^-- [A-Z].{20,}/);
        expect(header.keys + Number(header.keysOpen)).toBeGreaterThan(0);
        expect(header.returns).toMatch(/^\S.*\.$/);
      });

      it('is called with as many keys and arguments as it says', async () => {
        const { scripts, calls } = noting(name === 'check-access' ? [] : 1);
        await wrappers[name](scripts);
        const [call] = calls;
        expect(calls).toHaveLength(1);
        expect(call?.name).toBe(name);
        if (header.keysOpen) expect(call!.keys.length).toBeGreaterThan(header.keys);
        else expect(call!.keys).toHaveLength(header.keys);
        if (header.argumentsOpen) expect(call!.args.length).toBeGreaterThan(header.arguments);
        else expect(call!.args).toHaveLength(header.arguments);
        expect(call!.args.every((value) => typeof value === 'string' || typeof value === 'number')).toBe(true);
      });

      it('uses no key or argument that it does not name, and names none that it does not use', () => {
        const code = text.split('\n').filter((line) => !line.trim().startsWith('--')).join('\n');
        const used = (of: 'KEYS' | 'ARGV'): number[] => [...code.matchAll(new RegExp(`${of}\\[(\\d+)\\]`, 'g'))].map((match) => Number(match[1]));
        for (const [of, count, open] of [['KEYS', header.keys, header.keysOpen], ['ARGV', header.arguments, header.argumentsOpen]] as const) {
          expect(Math.max(0, ...used(of)), of).toBeLessThanOrEqual(count);
          if (!open) expect(new Set(used(of)).size, of).toBe(count);
        }
      });

      it('touches only keys of one slot, all handed over as keys', async () => {
        const { scripts, calls } = noting(name === 'check-access' ? [] : 1);
        await wrappers[name](scripts);
        for (const key of calls[0]!.keys) expect(key).toMatch(/^fairlead:\{chat\}:/);
        const code = text.split('\n').filter((line) => !line.trim().startsWith('--')).join('\n');
        expect(code).not.toMatch(/fairlead|redis\.call\('[A-Z]+', '(?!KEYS)/);
      });

      it('takes the time from Redis', () => {
        expect(text).not.toMatch(/os\.time|os\.clock/);
      });
    });
  }

  it('an answer that is none of a script is an error, not a number', async () => {
    for (const answer of ['1', null, undefined, {}, [1]]) {
      const { scripts } = noting(answer);
      await expect(scripts.releaseCap('chat', '10.0.0.1:80', ['a.1'])).rejects.toThrow('expected a number');
    }
  });

  it('an endpoint that was not asked for is never taken', async () => {
    for (const answer of [0, -1, 3, 1e9, 0.5]) {
      const { scripts } = noting(answer);
      expect(await scripts.acquireCap('chat', 'a.1', endpoints, 1_000)).toBeUndefined();
    }
  });
});
