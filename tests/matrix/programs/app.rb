# What README.md says, in Ruby with fcgi.
require 'fcgi'

def send_pattern(out, args, from, size)
  File.open("#{args['dir']}/pattern.bin", 'rb') do |file|
    file.seek(from)
    while size.positive?
      piece = file.read([size, 65_536].min)
      out.print piece
      size -= piece.bytesize
    end
  end
end

def seen?(path)
  5000.times do
    return true if File.exist?(path)

    sleep 0.001
  end
  false
end

FCGI.each do |request|
  out = request.out
  args = request.env['QUERY_STRING'].split('&').to_h { |pair| pair.split('=', 2) }
  head = "Content-Type: text/plain\r\n"
  case args['do']
  when 'page'
    out.print "#{head}\r\n"
    send_pattern(out, args, args['from'].to_i, args['size'].to_i)
  when 'echo'
    body = request.in.read || ''
    out.print "#{head}\r\n"
    out.print body
  when 'slow'
    out.print "Content-Type: text/event-stream\r\nX-Accel-Buffering: no\r\n\r\n"
    1.upto(args['pieces'].to_i) do |number|
      out.print "piece #{number}\n"
      out.flush
      next if seen?("#{args['dir']}/seen-#{number}")

      out.print "nobody has seen it\n"
      break
    end
  when 'status'
    out.print "Status: #{args['code']}\r\n#{head}\r\n"
  when 'headers'
    out.print head
    args['count'].to_i.times { |number| out.print "X-Many-#{number}: #{'h' * args['length'].to_i}\r\n" }
    out.print "\r\nheaders\n"
  when 'stderr'
    out.print "#{head}\r\n"
    20.times do |number|
      send_pattern(out, args, 1000 * number, 1000)
      out.flush
      request.err.print "something on stderr #{number}\n"
      request.err.flush
    end
  when 'early'
    out.print "#{head}\r\nearly\n"
  when 'die'
    if args['size']
      out.print "#{head}\r\n"
      send_pattern(out, args, 0, args['size'].to_i)
      out.flush
    end
    Process.kill('KILL', Process.pid)
  end
  request.finish
end
