import { type DestinationStream, type Logger as PinoLogger, pino } from 'pino';
import { toSafeFields, toSafeText } from './safe-fields.ts';

/** Writes JSON lines: `logger.warn({ event: 'code', … }, 'Text.')`. */
export type Logger = PinoLogger;

export interface LoggerOptions {
  readonly level: 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent';
  /** Where lines go; stdout when left out. */
  readonly destination?: DestinationStream | undefined;
}

/** The ways to put fields into every line of a logger. */
interface BindingMethods {
  child: (this: Logger, bindings: object, options?: object) => Logger;
  setBindings: (this: Logger, bindings: object) => void;
}

/** Bytes of log kept while nobody reads stdout; what comes beyond is dropped rather than let a hung reader stop the router. */
const bufferBytesMax = 4 * 1024 * 1024;

let shared: ReturnType<typeof pino.destination> | undefined;

/** The process's stdout, written in the background. One for all who write lines there, or these would come out mixed. */
export function stdout(): ReturnType<typeof pino.destination> {
  return (shared ??= pino.destination({ dest: 1, sync: false, maxLength: bufferBytesMax }));
}

/**
 * Makes the process's logger: one JSON object a line, ISO time, level by name. Fields, errors and child bindings pass through
 * `toSafeFields`, so that neither prompts nor sessions, tenants or credentials get into a log, whoever logs them. Text is a
 * constant: arguments for placeholders are ignored, values belong into fields.
 */
export function createLogger({ level, destination }: LoggerOptions): Logger {
  const logger = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }), log: toSafeFields },
      // Errors are plain data by the time the serializers run.
      serializers: { err: (error: unknown) => error },
      hooks: {
        logMethod([first, second]: unknown[], method) {
          const text = typeof second === 'string' ? toSafeText(second) : undefined;
          if (first instanceof Error) method.call(this, { err: first }, text ?? 'error');
          else if (typeof first === 'object' && first !== null) method.call(this, first, text ?? '');
          else method.call(this, {}, toSafeText(String(first)));
        },
      },
    },
    destination ?? stdout(),
  );
  // pino runs neither formatter on a child's bindings.
  const bound = logger as unknown as BindingMethods;
  const { child, setBindings } = bound;
  bound.child = function (bindings, options) {
    return child.call(this, toSafeFields(bindings), options);
  };
  bound.setBindings = function (bindings) {
    setBindings.call(this, toSafeFields(bindings));
  };
  return logger;
}
