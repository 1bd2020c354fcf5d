import { open } from 'node:fs/promises';
import { type DestinationStream, pino } from 'pino';
import type { LineSink } from './decision-log.ts';

/** Bytes kept for a destination that is slow; what comes beyond is dropped. */
const bufferBytesMax = 4 * 1024 * 1024;

/** Longest that closing may take, in ms. */
const closeMsMax = 1_000;

/** A file that lines are appended to. */
export interface LineFile extends LineSink {
  /** Goes on in a new file of that name, after the old one was renamed by who rotates it. */
  reopen(): void;
  /** Writes what is kept and closes; what cannot be written then is lost. */
  close(): Promise<void>;
}

/** What pino's destinations are beside streams: buffered, bounded, written in the background. */
type Destination = ReturnType<typeof pino.destination>;

/** Lines into a destination that is shared with others, such as the log on stdout; it drops by its own bound. */
export function createLineSink(destination: DestinationStream & Partial<Pick<Destination, 'on'>>): LineSink {
  // Told synchronously, within `write`.
  let dropped = false;
  destination.on?.('drop', () => {
    dropped = true;
  });
  return {
    write: (line) => {
      dropped = false;
      destination.write(line);
      return !dropped;
    },
  };
}

/**
 * Opens a file to append lines to; rejects where it cannot be opened. Writing never waits: lines are kept up to a bound while the disk is
 * slow or full, then dropped. `onError` hears of failed writes and failed reopening; the lines stay kept and are tried again.
 */
export async function openLineFile(file: string, onError: (error: Error) => void): Promise<LineFile> {
  // A destination that never opened would throw when the process ends: try first.
  await (await open(file, 'a')).close();
  const destination = pino.destination({ dest: file, append: true, mkdir: false, sync: false, maxLength: bufferBytesMax });
  await new Promise<void>((resolve, reject) => {
    destination.once('ready', resolve);
    destination.once('error', reject);
  });
  destination.on('error', onError);
  const sink = createLineSink(destination);
  // While it reopens, it must not be told to end: it would neither open nor close.
  let reopened = Promise.resolve();
  let closed: Promise<void> | undefined;
  return {
    write: (line) => closed === undefined && sink.write(line),
    reopen: () => {
      if (closed !== undefined) return;
      reopened = new Promise((resolve) => {
        destination.once('ready', resolve);
        destination.once('error', () => resolve());
      });
      destination.reopen();
    },
    close: () =>
      (closed ??= new Promise((resolve) => {
        // A disk that is full never takes the rest.
        let isForced = false;
        const forced = setTimeout(() => {
          isForced = true;
          destination.destroy();
        }, closeMsMax);
        destination.once('close', () => {
          clearTimeout(forced);
          resolve();
        });
        void reopened.then(() => {
          if (!isForced) destination.end();
        });
      })),
  };
}
